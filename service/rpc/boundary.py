"""Where gRPC ends and our code begins: bytes that do not parse, errors to statuses, and what is in flight.

Every call goes through here, so that a behaviour (one file a call) only takes a message, raises ServiceErrors and
answers.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from service.errors import InternalFailure, InvalidInput, Overloaded, ServiceError, ShuttingDown
from service.rpc.status import describe

log = logging.getLogger(__name__)

ABORT_TIMEOUT_S = 1.0  # for a status, which waits behind what was written and not read
RETRY_AFTER_S = 1.0  # a hint where nothing is known about when the next call ends

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]


@dataclass(frozen=True)
class Malformed:
    """Bytes that came where a message was expected."""

    expected: str
    num_bytes: int

    def error(self) -> InvalidInput:
        """Say so to the caller."""
        return InvalidInput(
            "request", f"a serialised {self.expected} with text in UTF-8", f"{self.num_bytes} bytes that are not"
        )


class Boundary:
    """Admits calls and counts them.

    Args:
        max_calls: Calls and streams being answered at a time.
    """

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self.draining = asyncio.Event()  # nothing new is admitted
        self._stopped = False  # the time to finish is over
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Calls being answered."""
        return len(self._tasks)

    async def drain(self, timeout_s: float) -> bool:
        """Admit nothing more and wait for what is in flight; what takes longer is answered with SHUTTING_DOWN.

        Returns:
            Whether all calls ended by themselves within `timeout_s`.
        """
        self.draining.set()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            self._stopped = True
            for task in self._tasks:
                task.cancel()
            await self._idle.wait()
            return False
        return True

    def handler(
        self, behaviour: Behaviour, request: type[Message], *, client_streaming: bool, server_streaming: bool
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Make the handler of one method.

        Args:
            behaviour: Takes a request message and the context, and returns the answer; a server stream is written with
                `context.write`, a client stream read with `context.read` (the first argument is then of no use).
            request: Class of the request message.
            client_streaming: As the method's descriptor says.
            server_streaming: As the method's descriptor says.
        """

        def parse(data: bytes) -> Message | Malformed:
            try:
                return request.FromString(data)
            except DecodeError:
                return Malformed(request.DESCRIPTOR.full_name, len(data))

        async def call(message: Any, context: Context) -> Any:
            task = self._enter()
            try:
                self._admit()
                if isinstance(message, Malformed):
                    raise message.error()
                return await behaviour(message, context)
            except BaseException as error:
                await self._end_badly(context, error)
            finally:
                self._leave(task)

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[client_streaming, server_streaming]
        return make(call, parse, _serialize)

    # Plain calls, not a context manager: every call of the service passes here, and an asynccontextmanager would be a
    # tenth of what the Python of a small one costs.

    def _enter(self) -> "asyncio.Task[Any]":
        """Count a call."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._idle.clear()
        return task

    def _admit(self) -> None:
        if self.draining.is_set():
            raise ShuttingDown("the service is shutting down and admits nothing new")
        if len(self._tasks) > self._max_calls:
            raise Overloaded(f"expected at most {self._max_calls} calls at a time, got one more", RETRY_AFTER_S)

    async def _end_badly(self, context: Context, error: BaseException) -> None:
        """Turn what a call raised into a status; called where it is handled.

        Raises:
            BaseException: The error itself, where gRPC ends the call or has ended it.
        """
        if isinstance(error, ServiceError):
            await _abort(context, error)
        elif isinstance(error, asyncio.CancelledError):  # by gRPC, where the caller has gone; or by `drain`
            if not self._stopped or context.done():
                raise error
            await _abort(context, ShuttingDown("the service shut down before the answer was ready"))
        elif isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):  # already answered
            raise error
        elif context.done() or isinstance(error, grpc.aio.InternalError):  # a write to a caller that has gone
            log.debug("a caller went away", exc_info=True)
            raise asyncio.CancelledError from None
        else:
            log.exception("a call failed")
            await _abort(context, InternalFailure("see the log"))

    def _leave(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()


async def _abort(context: Context, error: ServiceError) -> None:
    status = describe(error)
    if isinstance(error, InternalFailure):
        log.error("answered INTERNAL: %s", error)
    try:
        async with asyncio.timeout(ABORT_TIMEOUT_S):
            await context.abort(status.code, status.message, status.trailers)
    except TimeoutError:  # gRPC keeps it, behind at most one message, until the caller reads or goes
        log.info("a caller has not read that its call ended: %s", status.message)
        raise asyncio.CancelledError from None
    except grpc.aio.InternalError:  # the call was over before it could be told, as when its deadline has just passed
        log.debug("a call was over before its end could be told: %s", status.message)
        raise asyncio.CancelledError from None


def _serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def deadline_s(context: Context) -> float | None:
    """When the caller's time is up, on the engine's clock (time.monotonic); None where it set no deadline."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
