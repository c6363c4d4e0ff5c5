"""Every way in which a call can fail, rebuilt from the details that the server sends.

    CarryoverError
    |-- InvalidArgument        the request is wrong: `violations` names the fields, with expected and got
    |-- NotFound
    |   |-- ModelNotFound      no such model, or no such version of it
    |   |-- MarkNotFound       the session has no such mark
    |   `-- SessionNotFound    no such session of this caller
    |       `-- SessionExpired it was idle for too long
    |-- AlreadyExists
    |   `-- SessionExists      this caller has an open session of that name
    |-- FailedPrecondition
    |   |-- WrongTask          the model does something else
    |   |-- SessionClosed      it was closed before
    |   `-- StepMismatch       the session has taken another number of steps
    |-- ResourceExhausted
    |   `-- Overloaded         come back after `retry_after_s`
    |-- DeadlineExceeded       the time ran out, here or at the server
    |-- Cancelled              this side cancelled
    |-- Unavailable            no server there, or the connection broke
    |   `-- ShuttingDown       it admits nothing new
    `-- InternalError          the server's own fault

A status that is none of these is a plain CarryoverError.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError

from protos.carryover.client.v1 import error_details_pb2 as details_pb
from protos.carryover.v1 import carryover_pb2 as pb

DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "carryover"
_CANCELLED_HERE = "Locally cancelled by application!"  # grpcio's word for it
_BROKEN_UNDER_A_WRITE = "Internal error from Core"  # grpc.aio's, which makes an INTERNAL of it by itself


@dataclass(frozen=True)
class Violation:
    """One field of the request that the server refused."""

    field: str
    description: str


@dataclass(eq=False)  # errors are compared by identity and stay hashable
class CarryoverError(Exception):
    """A call failed.

    Args:
        message: For a person: expected and got.
        code: Name of the gRPC status code.
        reason: Stable word that programs match on; empty where the server gave none.
        metadata: Further facts, such as `expected` and `got`.
        violations: The fields at fault.
        retry_after_s: When to come back, in seconds; None where that would not help.
    """

    message: str
    code: str = "UNKNOWN"
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return self.message


class InvalidArgument(CarryoverError):
    """The request itself is wrong."""


class NotFound(CarryoverError):
    """Something named in the request does not exist."""


class ModelNotFound(NotFound):
    """No model of that name (and version) is served."""


class MarkNotFound(NotFound):
    """The session has no such mark; it is as it was."""


class SessionNotFound(NotFound):
    """The server knows no such session of this caller."""


class SessionExpired(SessionNotFound):
    """The session was idle for too long and was closed."""


class AlreadyExists(CarryoverError):
    """Something that the request would make is there already."""


class SessionExists(AlreadyExists):
    """This caller has an open session of that name."""


class FailedPrecondition(CarryoverError):
    """The request is well-formed but cannot be done as things are."""


class WrongTask(FailedPrecondition):
    """The model is served, but its task has no such call."""


class SessionClosed(FailedPrecondition):
    """The session was closed before."""


class StepMismatch(FailedPrecondition):
    """The session has taken another number of steps than the request says; it is as it was."""


class ResourceExhausted(CarryoverError):
    """A limit of the server was reached."""


class Overloaded(ResourceExhausted):
    """The server is full; nothing was admitted."""


class DeadlineExceeded(CarryoverError):
    """The time ran out."""


class Cancelled(CarryoverError):
    """The call was cancelled on this side."""


class Unavailable(CarryoverError):
    """The server cannot be reached, or the connection broke."""


class ShuttingDown(Unavailable):
    """The server admits nothing new."""


class InternalError(CarryoverError):
    """The server's own fault."""


_BY_REASON: Mapping[str, type[CarryoverError]] = {
    "INVALID_INPUT": InvalidArgument,
    "MODEL_NOT_FOUND": ModelNotFound,
    "WRONG_TASK": WrongTask,
    "SESSION_NOT_FOUND": SessionNotFound,
    "SESSION_EXPIRED": SessionExpired,
    "SESSION_CLOSED": SessionClosed,
    "SESSION_EXISTS": SessionExists,
    "MARK_NOT_FOUND": MarkNotFound,
    "STEP_MISMATCH": StepMismatch,
    "OVERLOADED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "SHUTTING_DOWN": ShuttingDown,
    "INTERNAL": InternalError,
}
_BY_CODE: Mapping[grpc.StatusCode, type[CarryoverError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.INTERNAL: InternalError,
}
_CODE_BY_NUMBER: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def error_class(code: grpc.StatusCode, reason: str) -> type[CarryoverError]:
    """Choose the class: by the reason where it is known, else by the code."""
    return _BY_REASON.get(reason) or _BY_CODE.get(code, CarryoverError)


def from_session_error(error: pb.SessionError) -> CarryoverError:
    """Build the error that a SessionError message describes; its details are those of a unary call."""
    status = _CODE_BY_NUMBER.get(error.code, grpc.StatusCode.UNKNOWN)
    metadata, violations = {}, []
    for violation in error.violations:
        metadata = {"field": violation.field, "expected": violation.expected, "got": violation.got}
        violations.append(Violation(violation.field, f"expected {violation.expected}, got {violation.got}"))
    return error_class(status, error.reason)(
        error.message, status.name, error.reason, metadata, tuple(violations), error.retry_after_s or None
    )


def from_status(code: grpc.StatusCode, message: str, details: bytes | None) -> CarryoverError:
    """Build the error that a call's status describes.

    Args:
        code: The status code.
        message: The status message.
        details: The trailer `grpc-status-details-bin`; None where there is none. Those that do not parse are left out:
            the status alone is still true.
    """
    info, retry_after_s, violations = details_pb.ErrorInfo(), None, []
    status = details_pb.StatusDetails()
    try:
        status.ParseFromString(details or b"")
        for detail in status.details:
            kind = detail.type_url.rpartition("/")[2]
            if kind == "google.rpc.ErrorInfo":
                info.ParseFromString(detail.value)
            elif kind == "google.rpc.RetryInfo":
                delay = details_pb.RetryInfo.FromString(detail.value).retry_delay
                retry_after_s = delay.seconds + delay.nanos * 1e-9
            elif kind == "google.rpc.BadRequest":
                bad = details_pb.BadRequest.FromString(detail.value)
                violations += [Violation(v.field, v.description) for v in bad.field_violations]
    except DecodeError:
        info.Clear()
    reason = info.reason if info.domain == DOMAIN else ""
    cls = error_class(code, reason)
    if code is grpc.StatusCode.CANCELLED and not reason and message != _CANCELLED_HERE:
        # Nobody here cancelled: the other side closed the connection under the call.
        cls, message = Unavailable, "the server ended the call before it was answered"
    elif code is grpc.StatusCode.INTERNAL and not details and message == _BROKEN_UNDER_A_WRITE:
        cls, message = Unavailable, "the connection broke while a message was written"
    return cls(message, code.name, reason, dict(info.metadata), tuple(violations), retry_after_s)


def from_rpc_error(error: grpc.RpcError) -> CarryoverError:
    """Build the error from what grpcio raised, blocking or asyncio."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError), error
    trailers = error.trailing_metadata() or ()
    details = next((value for key, value in trailers if key == DETAILS_KEY), None)
    return from_status(error.code(), error.details() or "", details if isinstance(details, bytes) else None)
