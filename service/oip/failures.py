"""What the clients of the protocol are told of the service's own errors, in the words that they match on."""

from collections.abc import Mapping

from service import errors
from service.oip.errors import Code, OipError

_CODES: Mapping[type[errors.ServiceError], Code] = {
    errors.InvalidInput: "invalid_argument",
    errors.ModelNotFound: "not_found",
    errors.WrongTask: "invalid_argument",
    errors.SessionNotFound: "invalid_argument",
    errors.SessionExpired: "invalid_argument",
    errors.SessionClosed: "invalid_argument",
    errors.SessionExists: "already_exists",
    errors.MarkNotFound: "invalid_argument",
    errors.StepMismatch: "invalid_argument",
    errors.Overloaded: "unavailable",
    errors.DeadlineExceeded: "deadline_exceeded",
    errors.RequestCancelled: "cancelled",
    errors.ShuttingDown: "unavailable",
    errors.InternalFailure: "internal",
}
INTERNAL = "the service failed; its log says why"
STOPPING = "Server is stopping, scheduler for model has stopped accepting new inference requests"
REQUEST_TIMEOUT = "Request timeout expired"
STEP_REFUSED = "the sequence has ended: a request of it before this one was refused"
SEQUENCE_TIMEOUT = "timeout of the corresponding sequence has been expired"


def to_oip(error: errors.ServiceError, request_id: str = "") -> OipError:
    """Say what a client is told about an error; nothing of the inside in the case of our own fault."""
    code = _CODES.get(type(error), "internal")
    if code == "internal":
        return OipError(code, INTERNAL)
    if isinstance(error, errors.Overloaded):
        return OipError(code, f"{log_prefix(request_id)}Exceeds maximum queue size: {error}")
    if isinstance(error, errors.ShuttingDown):
        return OipError(code, STOPPING)
    return OipError(code, str(error))


def log_prefix(request_id: str) -> str:
    """How the reference server begins messages about one request."""
    return f"[request id: {request_id or '<id_unknown>'}] "


def start_missing(model: str, sequence_id: int | str) -> OipError:
    """The answer to a request of a sequence that is not there."""
    return OipError(
        "invalid_argument",
        f"inference request for sequence {sequence_id} to model '{model}' must specify the START flag on the first "
        "request of the sequence",
    )
