"""Where gRPC ends and our code begins: bytes that do not parse, errors to statuses, and what is in flight.

Every call goes through here, so that a behaviour (one file a call) only takes a message, raises ServiceErrors and
answers.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from service.calls import STOPPED, Calls
from service.errors import InternalFailure, InvalidInput, ServiceError, ShuttingDown
from service.oip.errors import OipError
from service.rpc.status import describe

log = logging.getLogger(__name__)

ABORT_TIMEOUT_S = 1.0  # for a status, which waits behind what was written and not read

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]


class Told(Protocol):
    """What a caller is told of an error: a gRPC status."""

    @property
    def code(self) -> grpc.StatusCode:
        """Its code."""

    @property
    def message(self) -> str:
        """Its text."""

    @property
    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """The trailing metadata that goes with it."""


Describe = Callable[[Any], Told]


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
        max_calls: Calls and streams being answered at a time, questions about health apart.
    """

    def __init__(self, max_calls: int) -> None:
        self._calls = Calls(max_calls)

    @property
    def draining(self) -> asyncio.Event:
        """Set once nothing new is admitted."""
        return self._calls.draining

    @property
    def in_flight(self) -> int:
        """Calls being answered."""
        return len(self._calls)

    async def drain(self, timeout_s: float, is_over: Callable[[], bool] = lambda: True) -> bool:
        """Admit nothing more and wait for what is in flight; what takes longer is answered with SHUTTING_DOWN.

        Args:
            timeout_s: To wait at most.
            is_over: Whether nothing is left that runs through several calls; those have handlers that admit them.

        Returns:
            Whether all calls ended by themselves within `timeout_s`.
        """
        return await self._calls.drain(timeout_s, is_over)

    def handler(
        self,
        behaviour: Behaviour,
        request: type[Message],
        *,
        client_streaming: bool,
        server_streaming: bool,
        describe: Describe = describe,
        while_draining: bool = False,
        is_health: bool = False,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Make the handler of one method.

        Args:
            behaviour: Takes a request message and the context, and returns the answer; a server stream is written with
                `context.write`, a client stream read with `context.read` (the first argument is then of no use).
            request: Class of the request message.
            client_streaming: As the method's descriptor says.
            server_streaming: As the method's descriptor says.
            describe: Says what a caller is told about a ServiceError or an OipError.
            while_draining: Whether it admits calls until the drain is over: what is new, the behaviour itself refuses.
            is_health: Whether it is a question about health, which is answered however many calls there are.
        """

        def parse(data: bytes) -> Message | Malformed:
            try:
                return request.FromString(data)
            except DecodeError:
                return Malformed(request.DESCRIPTOR.full_name, len(data))

        async def call(message: Any, context: Context) -> Any:
            task = self._calls.enter()
            try:
                self._calls.admit(while_draining=while_draining, is_health=is_health)
                if isinstance(message, Malformed):
                    raise message.error()
                return await behaviour(message, context)
            except BaseException as error:
                await self._end_badly(context, error, describe)
            finally:
                self._calls.leave(task)

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[client_streaming, server_streaming]
        return make(call, parse, _serialize)

    async def _end_badly(self, context: Context, error: BaseException, describe: Describe) -> None:
        """Turn what a call raised into a status; called where it is handled.

        Raises:
            BaseException: The error itself, where gRPC ends the call or has ended it.
        """
        if isinstance(error, ServiceError | OipError):
            await _abort(context, error, describe)
        elif isinstance(error, asyncio.CancelledError):  # by gRPC, where the caller has gone; or by `drain`
            if not self._calls.stopped or context.done():
                raise error
            await _abort(context, ShuttingDown(STOPPED), describe)
        elif isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):  # already answered
            raise error
        elif context.done() or isinstance(error, grpc.aio.InternalError):  # a write to a caller that has gone
            log.debug("a caller went away", exc_info=True)
            raise asyncio.CancelledError from None
        else:
            log.exception("a call failed")
            await _abort(context, InternalFailure("see the log"), describe)


async def _abort(context: Context, error: ServiceError | OipError, describe: Describe) -> None:
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
