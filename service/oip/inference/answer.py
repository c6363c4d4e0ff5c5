"""One request on its way: the future that its caller waits for, and at once the sink of its events.

An answer of a sequence that took the place of another one of the same id is given when the older one has had all its
answers: whoever sends requests of one id in order gets the answers in order.
"""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from service.engine.interface import Event, Failed, Finished, RequestId, SessionState, TokensDecided
from service.errors import (
    DeadlineExceeded,
    InternalFailure,
    Overloaded,
    RequestCancelled,
    ServiceError,
    SessionClosed,
    SessionNotFound,
)
from service.oip.errors import OipError
from service.oip.faces.face import Prepared
from service.oip.failures import REQUEST_TIMEOUT, SEQUENCE_TIMEOUT, STEP_REFUSED, start_missing, to_oip
from service.oip.messages import InferRequest, InferResponse
from service.oip.served import Served

if TYPE_CHECKING:
    from service.oip.inference.sequences import Sequence

log = logging.getLogger(__name__)


class Answer(asyncio.Future[InferResponse]):
    """See the module docstring.

    Args:
        loop: That its caller waits on.
        request: What is answered.
        served: The version of the model that answers.
        prepared: The same request, checked.
        work: Its number at the engine.
        num_bytes: Of its inputs.
        sequence: That it belongs to, if any.

    Attributes:
        served: The version of the model that answers, which may change while its sequence is carried over.
        export: The number at the engine of the copy of the states that it wants; 0: it wants none.
    """

    __slots__ = (
        "_began_ns", "_failure", "_num_bytes", "_num_parts", "_outcome", "_prepared", "_request",
        "_states", "_timer", "_value", "export", "sequence", "served", "work",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        request: InferRequest,
        served: Served,
        prepared: Prepared,
        work: RequestId,
        num_bytes: int,
        sequence: "Sequence | None" = None,
    ) -> None:
        super().__init__(loop=loop)
        self._began_ns = time.monotonic_ns()
        self._request = request
        self.served = served
        self._prepared = prepared
        self.work = work
        self.sequence = sequence
        self._num_bytes = num_bytes
        self._timer: asyncio.TimerHandle | None = None
        self.export: RequestId = 0
        self._num_parts = 1
        self._value: object = None
        self._states: SessionState | None = None
        self._failure: ServiceError | None = None
        self._outcome: InferResponse | OipError | None = None
        served.traffic.last_ns = self._began_ns

    def submitted(self, timeout_s: float) -> None:
        """Note that the engine has its work, which is to begin within so many seconds; 0: whenever it may."""
        traffic = self.served.traffic
        traffic.num_unanswered += 1
        traffic.num_bytes += self._num_bytes
        if timeout_s:
            self._timer = self.get_loop().call_later(timeout_s, self._time_out)

    def _over(self) -> None:
        """Note that it is answered, or that nobody waits for it any more."""
        traffic = self.served.traffic
        traffic.num_unanswered -= 1
        traffic.num_bytes -= self._num_bytes
        if self._timer is not None:
            self._timer.cancel()

    def _time_out(self) -> None:
        """End it if it still waits. A sequence that lacks a step is of no use: it ends as a whole."""
        if self.is_known or self.done() or self.served.bridge.has_begun(self.work):
            return
        if self.sequence is None:
            self.abandon(OipError("unavailable", REQUEST_TIMEOUT))
        else:
            self.sequence.abort(OipError("unavailable", SEQUENCE_TIMEOUT))

    @property
    def is_known(self) -> bool:
        """Whether its outcome is known, though its turn may not have come."""
        return self._outcome is not None

    def expect_export(self, export: RequestId) -> None:
        """Wait for the states too."""
        self.export = export
        self._num_parts += 1

    def take(self, event: Event) -> None:
        """Take the end of its run."""
        if type(event) is Finished:
            self._value = event.value
            self._part_came()
        elif type(event) is not TokensDecided:  # which come one by one, and whole at the end
            self.part_failed(_error_of(event))

    def take_state(self, event: Event) -> None:
        """Take the states that it wants."""
        if type(event) is Finished:
            assert isinstance(event.value, SessionState)
            self._states = event.value
            self._part_came()
        else:
            self.part_failed(_error_of(event))

    def part_failed(self, error: ServiceError) -> None:
        """Note that a part of it failed: the first reason is what its caller is told."""
        self.blame(error)
        if isinstance(error, Overloaded) and self.sequence is not None:
            self.sequence.break_off(self, OipError("unavailable", STEP_REFUSED))
        self._part_came()

    def blame(self, error: ServiceError) -> None:
        """Say why it is going to fail."""
        if self._failure is None:
            self._failure = error

    def _part_came(self) -> None:
        self._num_parts -= 1
        if self._num_parts:
            return
        self._outcome = self._failed(self._failure) if self._failure is not None else self._answered()
        sequence = self.sequence
        if sequence is None:
            self.deliver()
        else:
            sequence.settle(self)

    def _answered(self) -> InferResponse | OipError:
        request = self._request
        try:
            outputs = self._prepared.outputs(self._value, self._states)
        except OipError as error:
            return error
        except Exception:  # a caller must not wait for ever because of our mistake
            log.exception("an answer could not be made")
            return to_oip(InternalFailure("see the log"))
        return InferResponse(request.model_name, self.served.version, request.id, outputs)

    def _failed(self, error: ServiceError) -> OipError:
        sequence, request = self.sequence, self._request
        if sequence is not None and isinstance(error, DeadlineExceeded):  # one that lacks a step is of no use
            sequence.abort(OipError("unavailable", SEQUENCE_TIMEOUT), but=self)
        elif sequence is not None and isinstance(error, SessionNotFound | SessionClosed):
            return start_missing(request.model_name, sequence.key.sequence_id)
        return to_oip(error, request.id)

    def deliver(self) -> None:
        """Give the answer to who waits for it."""
        if self.done():
            return
        outcome, took_ns = self._outcome, time.monotonic_ns() - self._began_ns
        self._over()
        if isinstance(outcome, InferResponse):
            self.served.statistics.succeeded(self._prepared.num_rows, took_ns)
            self.set_result(outcome)
        else:
            assert outcome is not None
            self.served.statistics.failed(took_ns)
            self.set_exception(outcome)
            self.exception()  # has been seen: whoever went away in the meantime leaves nothing to warn of

    def cancel(self, msg: Any | None = None) -> bool:
        """Stop the work on it. The sequence that it belongs to ends with all that it has pending: it lacks a step."""
        if not super().cancel(msg):
            return False
        self._over()
        self.served.statistics.failed(time.monotonic_ns() - self._began_ns)
        if self.sequence is None:
            self.stop()
        else:
            self.sequence.abort(OipError("cancelled", "the sequence was cancelled"))
        return True

    def stop(self) -> None:
        """Have the engine stop its work; nothing more is heard of it."""
        bridge = self.served.bridge
        bridge.cancel(self.work)
        if self.export:
            bridge.cancel(self.export)

    def abandon(self, error: OipError) -> None:
        """End it with an error whatever its work gives."""
        self.stop()
        if not self.done():
            self._outcome = error
            self.deliver()


def _error_of(event: Event) -> ServiceError:
    return event.error if isinstance(event, Failed) else RequestCancelled("the request was cancelled")


class StateSink:
    """Takes the states for an answer."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def take(self, event: Event) -> None:
        """Take the one event of the copy."""
        self._answer.take_state(event)


class OpeningSink:
    """Takes what became of the opening of a sequence for its first answer."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def take(self, event: Event) -> None:
        """Take the one event of the opening; the first step fails by itself where there is no session."""
        if type(event) is Finished:
            return
        self._answer.blame(_error_of(event))
        if self._answer.sequence is not None:
            self._answer.sequence.lost()
