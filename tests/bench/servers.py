"""Small servers in the test's own loop, for the load generator: what they answer is known, and how late."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from protos.carryover.v1 import carryover_pb2 as pb

REFUSED = 8  # RESOURCE_EXHAUSTED


def fold(state: int, token: int) -> int:
    """The next state of a session, which is also its answer: any mix-up of order or session shows."""
    return (state * 31 + token + 1) % 9973


@dataclass
class Sessions(grpc.GenericRpcHandler):
    """Steps sessions by `fold`.

    Args:
        cut: How many events a response has at most; 0 for all of one request.
        delay_s: Before each response.
        delays_s: The same for single streams, from 1 in the order in which they came.
        refuse: Whether to refuse the n-th step command.
        retry_after_s: What a refusal says.
        stall: The number of the command before which all streams stop for `stall_s`, once.
    """

    cut: int = 0
    delay_s: float = 0.0
    delays_s: dict[int, float] = field(default_factory=dict)
    refuse: Callable[[int], bool] = lambda number: False
    retry_after_s: float = 0.0
    stall: int = 0
    stall_s: float = 0.0
    states: dict[str, int] = field(default_factory=dict)
    commands: list[int] = field(default_factory=list)  # how many each request had
    seen: Counter[str] = field(default_factory=Counter)
    stalled: asyncio.Event | None = None

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[pb.SessionRequest, pb.SessionResponse] | None":
        if details.method != "/carryover.v1.Carryover/Session":
            return None
        return grpc.stream_stream_rpc_method_handler(
            self._session, pb.SessionRequest.FromString, pb.SessionResponse.SerializeToString
        )

    async def _session(
        self, requests: AsyncIterator[pb.SessionRequest], context: Any
    ) -> AsyncIterator[pb.SessionResponse]:
        self.seen["streams"] += 1
        number = self.seen["streams"]
        async for request in requests:
            self.commands.append(len(request.commands))
            await self._wait(number)
            events = [self._event(command) for command in request.commands]
            for at in range(0, len(events), self.cut or len(events)):
                yield pb.SessionResponse(events=events[at : at + (self.cut or len(events))])

    async def _wait(self, stream: int) -> None:
        if self.stall and self.seen["steps"] >= self.stall:
            if self.stalled is None:
                self.stalled = asyncio.Event()
                await asyncio.sleep(self.stall_s)
                self.stalled.set()
            await self.stalled.wait()
        if delay_s := self.delays_s.get(stream, self.delay_s):
            await asyncio.sleep(delay_s)

    def _event(self, command: pb.SessionCommand) -> pb.SessionEvent:
        event = pb.SessionEvent(request_id=command.request_id)
        if command.WhichOneof("action") == "open":
            event.opened.session_id = f"session-{len(self.states)}"
            self.states[event.opened.session_id] = 0
            return event
        assert command.step.num_top == 1
        self.seen["steps"] += 1
        name = command.step.session_id
        if self.refuse(self.seen["steps"]):
            event.error.MergeFrom(pb.SessionError(code=REFUSED, reason="OVERLOADED", session_id=name))
            event.error.retry_after_s = self.retry_after_s
            return event
        event.stepped.session_id = name
        for token in command.step.token_ids:
            self.states[name] = fold(self.states[name], token)
            event.stepped.outputs.add(token_ids=[self.states[name]], log_probs=[-0.5])
        return event


@contextlib.asynccontextmanager
async def serving(*handlers: grpc.GenericRpcHandler) -> AsyncIterator[str]:
    """Serve on loopback; yields the address."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@dataclass
class Echo(grpc.GenericRpcHandler):
    """Raw bytes: Unary answers b"<" + request, Stream three parts, Fail the status that it is told."""

    seen: list[bytes] = field(default_factory=list)
    delay_s: float = 0.0

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        match details.method:
            case "/echo/Unary":
                return grpc.unary_unary_rpc_method_handler(self._unary)
            case "/echo/Stream":
                return grpc.unary_stream_rpc_method_handler(self._stream)
            case "/echo/Fail":
                return grpc.unary_unary_rpc_method_handler(self._fail)
        return None

    async def _unary(self, request: bytes, context: Any) -> bytes:
        self.seen.append(request)
        return b"<" + request

    async def _stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.sleep(self.delay_s)
        yield b""
        yield request * 2

    async def _fail(self, request: bytes, context: Any) -> bytes:
        code = next(code for code in grpc.StatusCode if code.value[0] == request[0])
        await context.abort(code, f"told to fail: 'é' {request[0]}")
        raise AssertionError("unreachable")


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """Give every connection to a handler; yields the address."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def read_post(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """One HTTP/1.1 request: its head and its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(line for line in head.split("\r\n") if line.lower().startswith("content-length:"))
    return head, await reader.readexactly(int(length.split(":")[1]))
