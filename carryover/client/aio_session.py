"""A session of the asyncio client: open, step, close over one bidirectional stream."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from carryover.client import messages, types
from carryover.client.channel import checked_timeout
from carryover.client.errors import CarryoverError, DeadlineExceeded, SessionClosed, from_rpc_error
from protos.carryover.v1 import carryover_pb2 as pb

STATUS_WAIT_S = 1.0  # for the status of a call that is over


class AsyncSession:
    """State that the server carries from step to step. Use with `async with`, one message at a time.

    Args:
        method: The stub's Session method.
        model: Whose state.
        version: 0 is the newest.
        timeout_s: Bound of each message, in seconds. A message that runs into it ends the session: nobody knows
            whether the server took the step.
    """

    def __init__(self, method: Callable[[], Any], model: str, version: int, timeout_s: float) -> None:
        self._open = messages.open_request(1, model, version)
        self._method = method
        self._timeout_s = timeout_s
        self._call: Any = None
        self._opened: pb.SessionOpened | None = None
        self._last_id = 1
        self._failure: CarryoverError | None = None
        self._closed = False
        self._turn = asyncio.Lock()  # answers come in order: who asks must also be the one who reads
        self.num_steps = 0

    @property
    def id(self) -> str:
        """As the server calls it.

        Raises:
            CarryoverError: It was not opened.
        """
        return self._known.session_id

    @property
    def model(self) -> types.ModelRef:
        """Whose state, with the concrete version.

        Raises:
            CarryoverError: It was not opened.
        """
        return messages.ref(self._known.model)

    @property
    def _known(self) -> pb.SessionOpened:
        if self._opened is None:
            raise CarryoverError("session: expected an open one, got one that was not opened: use `async with`")
        return self._opened

    async def open(self) -> None:
        """Open the stream and the session; `async with` does.

        Raises:
            CarryoverError: It could not be opened, or was before.
        """
        if self._call is not None:
            raise CarryoverError("session: expected to be opened once, got a second time")
        self._call = self._method()
        try:
            self._opened = (await self._ask(self._open, None)).opened
        except BaseException:
            self._call.cancel()
            raise

    async def step(
        self,
        tokens: Sequence[str] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
        num_top: int = 1,
        with_tokens: bool | None = None,
        timeout_s: float | None = None,
    ) -> list[types.StepOutput]:
        """Feed inputs in order, advancing the state once for each.

        Args:
            tokens: As text, one vocabulary entry each; or
            token_ids: as vocabulary ids.
            num_top: Outputs to return for each step, best first; 0 only advances.
            with_tokens: Whether outputs come as text too; None: where `tokens` were given.
            timeout_s: Bound of this message, in seconds.

        Raises:
            CarryoverError: The step was refused; the session stays as it was and goes on. After DeadlineExceeded,
                InternalError or Unavailable it is over.
        """
        async with self._turn:
            if self._closed:
                raise SessionClosed("session: expected an open one, got one that was closed", "FAILED_PRECONDITION")
            request = messages.step_request(
                self._next_id(), self.id, self.num_steps, tokens, token_ids, num_top, with_tokens
            )
            stepped = (await self._ask(request, timeout_s)).stepped
            self.num_steps = stepped.num_steps
            return messages.steps(stepped)

    async def close(self) -> int:
        """Close the session and give the number of steps that it took. Closing twice does nothing more."""
        async with self._turn:
            if not self._closed and self._known:
                self._closed = True
                try:
                    if self._failure is None:
                        request = messages.close_request(self._next_id(), self.id)
                        self.num_steps = (await self._ask(request, None)).closed.num_steps
                        await self._call.done_writing()
                finally:
                    self._call.cancel()  # nothing is left to be heard
            return self.num_steps

    async def __aenter__(self) -> "AsyncSession":
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:  # the error of the block is the one to be seen
            self._closed = True
            self._call.cancel()

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def _ask(self, request: pb.SessionRequest, timeout_s: float | None) -> pb.SessionResponse:
        if self._failure is not None:
            raise self._failure
        timeout_s = self._timeout_s if timeout_s is None else checked_timeout(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await self._call.write(request)
                answer = await self._call.read()
        except grpc.aio.AioRpcError as error:
            self._failure = await self._why_or(error)
        except asyncio.InvalidStateError:  # grpcio's word for a write after the end; the status says why it ended
            self._failure = await self._why()
        except TimeoutError:
            self._call.cancel()
            message = f"session: expected an answer within {timeout_s:g} s, got none"
            self._failure = DeadlineExceeded(message, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        except asyncio.CancelledError:  # the answer would be taken for that of the next message
            self._call.cancel()
            self._failure = CarryoverError("session: expected each message to be waited for, got a cancelled one")
            raise
        else:
            if answer is not grpc.aio.EOF:
                self._failure = messages.session_end(answer)
                return messages.session_answer(answer, request.request_id)
            self._failure = await self._why()
        raise self._failure from None

    async def _why_or(self, error: grpc.aio.AioRpcError) -> CarryoverError:
        """Tell why the stream has ended: a write into the end raises an INTERNAL of grpcio's own, the call knows."""
        try:
            async with asyncio.timeout(STATUS_WAIT_S):
                return await self._why()
        except TimeoutError:
            return from_rpc_error(error)

    async def _why(self) -> CarryoverError:
        """Tell why the stream has ended."""
        if await self._call.code() is grpc.StatusCode.OK:
            return CarryoverError("session: expected an answer, got the end of the stream")
        error = grpc.aio.AioRpcError(
            await self._call.code(),
            await self._call.initial_metadata(),
            await self._call.trailing_metadata(),
            await self._call.details(),
        )
        return from_rpc_error(error)
