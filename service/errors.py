"""Every way in which the service refuses or fails a request.

    ServiceError
    |-- InvalidInput         the request itself is wrong: says the field, expected and got
    |-- ModelNotFound        no such model, or no such version of it
    |-- WrongTask            the model exists but does something else
    |-- SessionNotFound      no such session, or it belongs to somebody else
    |   `-- SessionExpired   it was idle for too long and was closed
    |-- SessionClosed        it was closed before
    |-- SessionExists        the caller has an open session of that name
    |-- MarkNotFound         the session has no such mark
    |-- StepMismatch         the session has taken another number of steps than the caller says
    |-- Overloaded           a queue, the slots or the attention memory are full: come back later
    |-- DeadlineExceeded     the caller's time ran out before the answer was ready
    |-- RequestCancelled     the caller went away or asked to stop
    |-- ShuttingDown         the service admits nothing new
    `-- InternalFailure      our own fault; the caller learns only that

`service/rpc/status.py` maps each class to one gRPC status; a test proves the table complete. A message here is
written for the caller: it says what was expected and what was got, and never shows internals.
"""


class ServiceError(Exception):
    """Base of everything that a caller may be told. `reason` is a stable word that programs can match on."""

    reason = "SERVICE_ERROR"


class InvalidInput(ServiceError):
    """The request is malformed or out of bounds.

    Args:
        field: Path of the offending field, as in the proto (`tokens[3]`).
        expected: What would have been accepted.
        got: What came, shortened where long.
    """

    reason = "INVALID_INPUT"

    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field = field
        self.expected = expected
        self.got = got


class ModelNotFound(ServiceError):
    """No model of that name (and version) is being served."""

    reason = "MODEL_NOT_FOUND"


class WrongTask(ServiceError):
    """The model is served, but its task has no such call."""

    reason = "WRONG_TASK"


class SessionNotFound(ServiceError):
    """The session id is unknown to this caller."""

    reason = "SESSION_NOT_FOUND"


class SessionExpired(SessionNotFound):
    """The session had no request for longer than the idle timeout and was closed."""

    reason = "SESSION_EXPIRED"


class SessionClosed(ServiceError):
    """The session was closed before."""

    reason = "SESSION_CLOSED"


class SessionExists(ServiceError):
    """The caller has an open session of that name."""

    reason = "SESSION_EXISTS"


class MarkNotFound(ServiceError):
    """The session has no such mark."""

    reason = "MARK_NOT_FOUND"


class StepMismatch(ServiceError):
    """The caller's count of a session's steps is not ours. Nothing was changed.

    Args:
        field: Path of the field with the count.
        taken: Steps that the session has taken, those in flight included.
        got: The caller's count.
    """

    reason = "STEP_MISMATCH"

    def __init__(self, field: str, taken: int, got: int) -> None:
        super().__init__(f"{field}: expected {taken}, the steps that the session has taken by then, got {got}")
        self.field = field
        self.expected = str(taken)
        self.got = str(got)


class Overloaded(ServiceError):
    """A bound was reached. The request was not admitted and changed nothing.

    Args:
        message: Which bound, and its size.
        retry_after_s: A hint for when to come back, in seconds.
    """

    reason = "OVERLOADED"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServiceError):
    """The caller's deadline passed first."""

    reason = "DEADLINE_EXCEEDED"


class RequestCancelled(ServiceError):
    """The caller cancelled."""

    reason = "CANCELLED"


class ShuttingDown(ServiceError):
    """The service is draining."""

    reason = "SHUTTING_DOWN"


class InternalFailure(ServiceError):
    """Something broke that is not the caller's doing; details are in the service's log only."""

    reason = "INTERNAL"
