"""Answers of a Session stream, each as the bytes of a SessionResponse with one event.

Serialised messages of one type that follow each other are one message with the repeated fields of all
(https://protobuf.dev/programming-guides/encoding/#last-one-wins), so that joining bytes makes one response of many.
Fields are set one by one: keyword arguments take twice as long, and a step is answered tens of thousands of times a
second.
"""

from typing import TYPE_CHECKING

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import SessionState, SessionSteps, StepOutputs
from service.errors import ServiceError
from service.rpc.portable import pack
from service.rpc.reference import reference
from service.rpc.status import describe

if TYPE_CHECKING:
    from service.rpc.callers import LiveSession
    from service.rpc.pending import Pending

OUTPUT_BYTES = 16  # about what one output of a step takes, text not counted
EVENT_BYTES = 64  # and what an answer takes besides

_Response = pb.SessionResponse


def stepped(pending: "Pending", outputs: object) -> bytes:
    """Answer a step with ids."""
    assert type(outputs) is StepOutputs
    response = _Response()
    event = response.events.add()
    event.request_id = pending.request_id
    answer = event.stepped
    answer.session_id = pending.session.name  # type: ignore[union-attr]  # a step has a session
    answer.num_steps = outputs.num_steps
    if outputs.replayed:
        answer.replayed = True
    rows = answer.outputs
    for ids, log_probs in zip(outputs.token_ids, outputs.log_probs, strict=True):
        row = rows.add()
        row.token_ids.extend(ids)
        row.log_probs.extend(log_probs)
    return response.SerializeToString()


def stepped_with_tokens(pending: "Pending", outputs: object) -> bytes:
    """Answer a step with ids and the vocabulary's entries."""
    assert type(outputs) is StepOutputs and pending.session is not None
    live = pending.session
    decode = live.model.output_vocabulary.decode
    rows = [
        pb.StepOutput(token_ids=ids, log_probs=log_probs, tokens=decode(ids))
        for ids, log_probs in zip(outputs.token_ids, outputs.log_probs, strict=True)
    ]
    answer = pb.SessionStepped(
        session_id=live.name, outputs=rows, num_steps=outputs.num_steps, replayed=outputs.replayed
    )
    return respond(pending, stepped=answer)


def opened(pending: "Pending", value: object) -> bytes:
    """Answer open and fork."""
    assert isinstance(value, SessionSteps) and pending.opens is not None
    live = pending.opens
    answer = pb.SessionOpened(session_id=live.name, model=reference(live.model), num_steps=value.num_steps)
    return respond(pending, opened=answer)


def closed(pending: "Pending", value: object) -> bytes:
    """Answer close."""
    assert isinstance(value, SessionSteps) and pending.session is not None
    return respond(pending, closed=pb.SessionClosed(session_id=pending.session.name, num_steps=value.num_steps))


def marked(pending: "Pending", value: object) -> bytes:
    """Answer mark."""
    assert isinstance(value, SessionSteps) and isinstance(pending.extra, int) and pending.session is not None
    answer = pb.SessionMarked(session_id=pending.session.name, mark=pending.extra, num_steps=value.num_steps)
    return respond(pending, marked=answer)


def rewound(pending: "Pending", value: object) -> bytes:
    """Answer rewind."""
    assert isinstance(value, SessionSteps) and isinstance(pending.extra, int) and pending.session is not None
    answer = pb.SessionRewound(session_id=pending.session.name, mark=pending.extra, num_steps=value.num_steps)
    return respond(pending, rewound=answer)


def exported(pending: "Pending", value: object) -> bytes:
    """Answer export."""
    assert isinstance(value, SessionState) and pending.session is not None
    live = pending.session
    state = pack(live.model.manifest, value)
    return respond(pending, exported=pb.SessionExported(session_id=live.name, state=state, num_steps=value.num_steps))


def failure(request_id: int, session_id: str, error: ServiceError, *, session_ended: bool = False) -> bytes:
    """Tell that a command failed."""
    answer = error_of(error, session_id, session_ended=session_ended)
    return _Response(events=[pb.SessionEvent(request_id=request_id, error=answer)]).SerializeToString()


def error_of(error: ServiceError, session_id: str = "", *, session_ended: bool = False) -> pb.SessionError:
    """Say on a stream what went wrong with one command of it."""
    status = describe(error)
    return pb.SessionError(
        code=status.code.value[0],
        reason=status.reason,
        message=f"{status.message}; the session has ended" if session_ended else status.message,
        retry_after_s=status.retry_after_s,
        session_id=session_id,
        violations=status.violations,
        session_ended=session_ended,
    )


def expired(live: "LiveSession", num_steps: int) -> bytes:
    """Tell that a session has ended because nobody used it."""
    answer = pb.SessionExpired(session_id=live.name, num_steps=num_steps, idle_timeout_s=live.idle_timeout_s)
    return _Response(events=[pb.SessionEvent(expired=answer)]).SerializeToString()


def respond(pending: "Pending", **event: object) -> bytes:
    """Make the bytes of an answer, given the field of SessionEvent that tells it."""
    return _Response(events=[pb.SessionEvent(request_id=pending.request_id, **event)]).SerializeToString()  # type: ignore[arg-type]
