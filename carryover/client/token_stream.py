"""Tokens of an answer as the server decides them, for the blocking client."""

from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

import grpc

from carryover.client import types
from carryover.client.errors import CarryoverError, from_rpc_error

_Result = TypeVar("_Result")


class TokenStream(Generic[_Result]):
    """Tokens as the server decides them, then the result. Iterate once; use `with` to leave early."""

    def __init__(self, call: grpc.Call, events: Iterator[types.Token | _Result]) -> None:
        self._call = call
        self._events = events
        self._result: _Result | None = None

    def __iter__(self) -> Iterator[types.Token]:
        return self

    def __next__(self) -> types.Token:
        try:
            for event in self._events:
                if isinstance(event, types.Token):
                    return event
                self._result = event
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        raise StopIteration

    @property
    def result(self) -> _Result:
        """The result, once the iteration has ended.

        Raises:
            CarryoverError: Too early, or the server ended the stream without one.
        """
        if self._result is None:
            raise CarryoverError("result: expected the whole stream to have been read, got an unfinished one")
        return self._result

    def finish(self) -> _Result:
        """Read what is left and give the result."""
        for _ in self:
            pass
        return self.result

    def cancel(self) -> None:
        """Stop the server's work for this answer; nothing after the end."""
        self._call.cancel()

    def __enter__(self) -> "TokenStream[_Result]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
