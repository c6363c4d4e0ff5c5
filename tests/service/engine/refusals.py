"""When an engine may refuse or fail a request, judged by what was asked and heard before."""

from typing import TYPE_CHECKING

from service.engine.interface import (
    AnyRequest,
    CloseSession,
    ExportSession,
    ForkSession,
    MarkSession,
    OpenSession,
    RewindSession,
    SessionId,
    StepSession,
)
from service.errors import (
    DeadlineExceeded,
    InternalFailure,
    InvalidInput,
    MarkNotFound,
    Overloaded,
    ServiceError,
    SessionClosed,
    SessionNotFound,
    ShuttingDown,
    StepMismatch,
)
from tests.service.engine.reference import TOP_K

if TYPE_CHECKING:
    from tests.service.engine.follower import Follower, Following

AtSession = StepSession | CloseSession | ForkSession | MarkSession | RewindSession | ExportSession


def asked_session(request: AnyRequest) -> SessionId | None:
    """The session that a request is for, where it must be open."""
    if isinstance(request, ForkSession):
        return request.source
    return request.session if isinstance(request, AtSession) else None


def tokens_of(request: StepSession) -> list[int]:
    """The inputs of a step."""
    return [int(token) for token in request.inputs["tokens"]]  # type: ignore[arg-type]


def may_fail(
    follower: "Follower", request: AnyRequest, error: ServiceError, following: "Following | None", first: bool
) -> bool:
    """Whether a request may fail like that now.

    Args:
        follower: Who has heard everything until now.
        request: What was asked.
        error: How it failed.
        following: The session that it is for, if that is open.
        first: Whether it is the one that has waited longest there.
    """
    match error:
        case SessionClosed():
            asked = asked_session(request)
            earlier = [follower.requests[number] for number in follower.unended if number < request.id]
            return any(isinstance(other, CloseSession) and other.session == asked for other in earlier)
        case SessionNotFound():
            return isinstance(request, AtSession) and following is None
        case StepMismatch():
            assert isinstance(request, StepSession) and request.first_step is not None and following is not None
            history = following.history
            kept = history.find_answer(request.first_step, tokens_of(request))
            right = request.first_step == history.num_steps or kept is not None
            return first and not right and error.expected == str(history.num_steps)
        case MarkNotFound():
            assert isinstance(request, RewindSession) and following is not None
            return first and following.history.rewind(request.mark) is None
        case DeadlineExceeded():
            deadline_s = getattr(request, "deadline_s", None)
            # What would not be ready in time, as long as runs take, is not run.
            return deadline_s is not None and follower.clock() + follower.longest_run_s >= deadline_s
        case Overloaded():
            return _is_full(follower, request, following)
        case InvalidInput():
            return isinstance(request, StepSession) and (request.num_top > TOP_K or "tokens" not in request.inputs)
        case ShuttingDown():
            return follower.shutting_down
        case InternalFailure():
            return request.id in follower.broken or request.id in follower.may_break
    return False


def _is_full(follower: "Follower", request: AnyRequest, following: "Following | None") -> bool:
    limits = follower.limits
    # A fork has its place from when it is asked for; whether the engine knows of it yet is not known here.
    num_begun = sum(isinstance(follower.requests[number], follower.takes_a_place) for number in follower.unended)
    num_open = len(follower.open) + num_begun
    if isinstance(request, OpenSession | ForkSession) and num_open >= limits.max_sessions:
        return True
    if isinstance(request, MarkSession) and following is not None:
        num_marks = len(following.history.mark(request.mark).marks)
        if num_marks > limits.max_marks:
            return True
    marks = sum(len(other.history.marks) for other in follower.open.values())
    may_grow = isinstance(request, OpenSession | ForkSession | MarkSession | RewindSession)
    return may_grow and (num_open + marks + 1) * follower.state_bytes > limits.max_host_bytes
