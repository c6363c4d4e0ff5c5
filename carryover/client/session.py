"""A session of the blocking client: open, step, close over one bidirectional stream."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import grpc

from carryover.client import messages, types
from carryover.client.channel import checked_timeout
from carryover.client.errors import CarryoverError, DeadlineExceeded, SessionClosed, from_rpc_error
from protos.carryover.v1 import carryover_pb2 as pb


class Session:
    """State that the server carries from step to step. Use as a context manager, from one thread at a time.

    Args:
        method: The stub's Session method.
        model: Whose state.
        version: 0 is the newest.
        timeout_s: Bound of each message, in seconds. A message that runs into it ends the session: nobody knows
            whether the server took the step.
    """

    def __init__(self, method: Callable[..., Any], model: str, version: int, timeout_s: float) -> None:
        self._open = messages.open_request(1, model, version)
        self._timeout_s = timeout_s
        self._requests: queue.SimpleQueue[pb.SessionRequest | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[pb.SessionResponse | CarryoverError] = queue.SimpleQueue()
        self._last_id = 0
        self._failure: CarryoverError | None = None
        self._closed = False
        self._call: Any = method(iter(self._requests.get, None))
        # The stream has no deadline of its own (a session may live for hours), so somebody else must wait for answers.
        threading.Thread(target=self._read, name="carryover-session", daemon=True).start()
        try:
            opened = self._ask(self._open, None).opened
        except BaseException:
            self._end()
            raise
        self.id: str = opened.session_id
        self.model: types.ModelRef = messages.ref(opened.model)
        self.num_steps = 0

    def step(
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
        if self._closed:
            raise SessionClosed("session: expected an open one, got one that was closed", "FAILED_PRECONDITION")
        request = messages.step_request(
            self._next_id(), self.id, self.num_steps, tokens, token_ids, num_top, with_tokens
        )
        stepped = self._ask(request, timeout_s).stepped
        self.num_steps = stepped.num_steps
        return messages.steps(stepped)

    def close(self) -> int:
        """Close the session and give the number of steps that it took. Closing twice does nothing more."""
        if not self._closed:
            self._closed = True
            try:
                if self._failure is None:
                    closed = self._ask(messages.close_request(self._next_id(), self.id), None).closed
                    self.num_steps = closed.num_steps
            finally:
                self._end()
        return self.num_steps

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # the error of the block is the one to be seen
            self._closed = True
            self._call.cancel()
            self._end()

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _ask(self, request: pb.SessionRequest, timeout_s: float | None) -> pb.SessionResponse:
        if self._failure is not None:
            raise self._failure
        timeout_s = self._timeout_s if timeout_s is None else checked_timeout(timeout_s)
        self._last_id = max(self._last_id, request.request_id)
        try:
            self._requests.put(request)
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self._call.cancel()
            self._failure = DeadlineExceeded(
                f"session: expected an answer within {timeout_s:g} s, got none",
                "DEADLINE_EXCEEDED",
                "DEADLINE_EXCEEDED",
            )
            raise self._failure from None
        except BaseException:  # Ctrl-C: the answer would be taken for that of the next message
            self._call.cancel()
            self._failure = CarryoverError("session: expected each message to be waited for, got an interrupted one")
            raise
        if isinstance(answer, CarryoverError):
            self._failure = answer
            raise answer
        self._failure = messages.session_end(answer)
        return messages.session_answer(answer, request.request_id)

    def _end(self) -> None:
        """Half-close the stream, which also ends grpcio's sending thread."""
        self._requests.put(None)

    def _read(self) -> None:
        answers: Iterator[pb.SessionResponse] = self._call
        try:
            for answer in answers:
                self._answers.put(answer)
            self._answers.put(CarryoverError("session: expected an answer, got the end of the stream"))
        except grpc.RpcError as error:
            self._answers.put(from_rpc_error(error))
