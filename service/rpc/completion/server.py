"""A gRPC server on a CompletionLoop: what grpc.aio's does, with fewer threads and turns of the loop a message."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio

from service.rpc.completion import core
from service.rpc.completion.call import CallOver, ServerCall, Unreadable
from service.rpc.completion.loop import CompletionLoop

log = logging.getLogger(__name__)

_CALLS_AHEAD: Final = 16  # that gRPC may hand over before it is asked for more
_STOP_S: Final = 5.0  # for calls that were cancelled
_END_S: Final = 1.0  # for a status that tells what went wrong, which waits behind what was written and not read


class CallDetails(NamedTuple):
    """What a handler is found by; see grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: Any


class CompletionServer(grpc.aio.Server):
    """See the module docstring.

    Args:
        loop: Where calls are served.
        options: As of `grpc.aio.server`.
    """

    def __init__(self, loop: CompletionLoop, options: Sequence[tuple[str, Any]]) -> None:
        self._loop = loop
        self._queue = loop.completions.queue
        self._server = core.Server(tuple((name.encode(), value) for name, value in options), False)
        self._server.register_completion_queue(self._queue)
        self._handlers: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = False
        self._over: asyncio.Future[None] | None = None  # once it stops

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """As of grpc.aio.Server."""
        self._handlers.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """As of grpc.aio.Server: handlers that generated code has added as generic ones as well."""

    def add_insecure_port(self, address: str) -> int:
        """As of grpc.aio.Server."""
        return self._listening(self._server.add_http2_port(address.encode()))

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """As of grpc.aio.Server."""
        credentials: Any = server_credentials
        return self._listening(self._server.add_http2_port(address.encode(), credentials._credentials))

    async def start(self) -> None:
        """As of grpc.aio.Server."""
        self._server.start()
        self._loop.completions.servers.append(self._server)
        self._started = True
        for _ in range(_CALLS_AHEAD):
            self._ask_for_call()

    async def stop(self, grace: float | None) -> None:
        """As of grpc.aio.Server."""
        if self._over is not None:  # it is being stopped, or was
            await asyncio.wait([self._over], timeout=(grace or 0.0) + 2 * _STOP_S)
            return
        self._over = over = self._loop.create_future()
        if not self._started:  # gRPC shuts down what has started
            self._server.start()
        self._server.shutdown(self._queue, lambda event: None if over.done() else over.set_result(None))
        try:
            if grace:
                await asyncio.wait([over], timeout=grace)
        finally:
            self._server.cancel_all_calls()
            for task in self._tasks:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_S)
        await asyncio.wait([over], timeout=_STOP_S)
        if over.done():
            if self._started:
                self._loop.completions.servers.remove(self._server)
            self._server.destroy()
        else:
            log.error("calls were still open %g s after they were cancelled", _STOP_S)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """As of grpc.aio.Server; only once it stops."""
        if self._over is None:
            raise grpc.aio.UsageError("expected a server that is being stopped")
        done, _ = await asyncio.wait([self._over], timeout=timeout)
        return not done

    def _listening(self, port: int) -> int:
        """The port.

        Raises:
            RuntimeError: There is none.
        """
        if not port:
            raise RuntimeError("expected an address to listen on")
        return port

    def _ask_for_call(self) -> None:
        self._server.request_call(self._queue, self._queue, self._arrived)

    def _arrived(self, event: Any) -> None:
        if not event.success:  # it is being shut down
            return
        if self._over is None:
            self._ask_for_call()
        # The path is what a caller wrote: where it is no text it is no method's.
        details = CallDetails(event.call_details.method.decode(errors="replace"), event.invocation_metadata)
        handler = next(filter(None, (one.service(details) for one in self._handlers)), None)
        if handler is None:
            call = ServerCall(self._loop, event)
        else:
            call = ServerCall(self._loop, event, handler.request_deserializer, handler.response_serializer)
        call.task = task = self._loop.create_task(_guarded(call, handler))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _guarded(call: ServerCall, handler: Any) -> None:
    """Serve a call to its end, whatever happens; without a handler it is told so."""
    try:
        if handler is None:
            await call.end(grpc.StatusCode.UNIMPLEMENTED, "Method not found!", ())
        else:
            await _serve(call, handler)
    except Unreadable as error:
        await _end(call, grpc.StatusCode.INVALID_ARGUMENT, str(error))
    except CallOver:
        log.debug("a caller went away", exc_info=True)
    except grpc.aio.AbortError:
        pass
    except asyncio.CancelledError:
        if not call.done():
            await _end(call, grpc.StatusCode.CANCELLED, "the service has ended the call")
        raise
    except Exception as error:
        log.exception("a call failed")
        if not call.done():
            await _end(call, grpc.StatusCode.UNKNOWN, f"Unexpected {type(error).__name__}")


async def _end(call: ServerCall, code: grpc.StatusCode, details: str) -> None:
    try:
        async with asyncio.timeout(_END_S):
            await call.end(code, details, ())
    except (CallOver, TimeoutError, grpc.aio.UsageError):
        log.debug("a caller went away", exc_info=True)


async def _serve(call: ServerCall, handler: Any) -> None:
    """Have a handler, a coroutine function or one of an asynchronous generator, serve a call."""
    request: Any
    if handler.request_streaming:
        request = _messages(call)
    else:
        request = await call.read()
        if request is grpc.aio.EOF:  # the caller went away, or broke the protocol
            await call.end(grpc.StatusCode.INTERNAL, "expected a request, got none", ())
            return
    if not handler.response_streaming:
        behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
        await call.end_well(await behaviour(request, call))
        return
    behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
    answers = behaviour(request, call)
    if inspect.isasyncgen(answers):
        async with contextlib.aclosing(answers):
            async for answer in answers:
                await call.write(answer)
    else:
        await answers
    await call.end_well()


async def _messages(call: ServerCall) -> AsyncIterator[Any]:
    while (message := await call.read()) is not grpc.aio.EOF:
        yield message
