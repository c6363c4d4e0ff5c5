"""Tokens of an answer as the server decides them, for the asyncio client."""

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc.aio

from carryover.client import types
from carryover.client.errors import CarryoverError, from_rpc_error

_Result = TypeVar("_Result")
_Answer = TypeVar("_Answer")


async def answer_of(call: Awaitable[_Answer]) -> _Answer:
    """Await a call and turn its failure into ours."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


class AsyncTokenStream(Generic[_Result]):
    """Tokens as the server decides them, then the result. Iterate once; leaving early calls for `cancel`."""

    def __init__(self, call: Any, read: Callable[[Any], types.Token | _Result]) -> None:
        self._call = call
        self._read = read
        self._result: _Result | None = None

    def __aiter__(self) -> AsyncIterator[types.Token]:
        return self

    async def __anext__(self) -> types.Token:
        while (message := await answer_of(self._call.read())) is not grpc.aio.EOF:
            event = self._read(message)
            if isinstance(event, types.Token):
                return event
            self._result = event
        raise StopAsyncIteration

    @property
    def result(self) -> _Result:
        """The result, once the iteration has ended.

        Raises:
            CarryoverError: Too early, or the server ended the stream without one.
        """
        if self._result is None:
            raise CarryoverError("result: expected the whole stream to have been read, got an unfinished one")
        return self._result

    async def finish(self) -> _Result:
        """Read what is left and give the result."""
        async for _ in self:
            pass
        return self.result

    def cancel(self) -> None:
        """Stop the server's work for this answer; nothing after the end."""
        self._call.cancel()

    async def __aenter__(self) -> "AsyncTokenStream[_Result]":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
