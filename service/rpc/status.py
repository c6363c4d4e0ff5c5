"""One table from our errors to gRPC statuses, and the rich details that go with each.

Source of the details: google.rpc.ErrorInfo, BadRequest and RetryInfo, as AIP-193 (https://google.aip.dev/193) has it.
They travel in the trailer `grpc-status-details-bin`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from protos.carryover.v1 import carryover_pb2 as pb
from service import errors

DOMAIN = "carryover"
DETAILS_KEY = "grpc-status-details-bin"
MAX_TEXT_CHARACTERS = 300  # of each text of a status: HTTP/2 headers have 8 KiB for all, non-ASCII takes up to 12 bytes
INTERNAL_MESSAGE = "the service failed; its log says why"

CODES: Mapping[type[errors.ServiceError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.WrongTask: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SessionNotFound: grpc.StatusCode.NOT_FOUND,
    errors.SessionExpired: grpc.StatusCode.NOT_FOUND,
    errors.SessionClosed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SessionExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.MarkNotFound: grpc.StatusCode.NOT_FOUND,
    errors.StepMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.RequestCancelled: grpc.StatusCode.CANCELLED,
    errors.ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    errors.InternalFailure: grpc.StatusCode.INTERNAL,
}


@dataclass(frozen=True)
class Status:
    """What a caller is told.

    Args:
        code: gRPC status code.
        message: For a person.
        reason: Stable word.
        retry_after_s: When to come back, in seconds; 0 where that would not help.
        violations: The fields at fault.
    """

    code: grpc.StatusCode
    message: str
    reason: str
    retry_after_s: float
    violations: tuple[pb.FieldViolation, ...]

    @property
    def details(self) -> bytes:
        """A serialised google.rpc.Status; made only where it is sent, which a flood of refusals on a stream is not."""
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN)
        details: list[Message] = [info]
        for violation in self.violations:
            info.metadata.update(field=violation.field, expected=violation.expected, got=violation.got)
        if self.violations and self.code is grpc.StatusCode.INVALID_ARGUMENT:
            bad = [
                error_details_pb2.BadRequest.FieldViolation(
                    field=violation.field, description=f"expected {violation.expected}, got {violation.got}"
                )
                for violation in self.violations
            ]
            details.append(error_details_pb2.BadRequest(field_violations=bad))
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(round(self.retry_after_s * 1e9))
            details.append(retry)
        packed = [any_pb2.Any() for _ in details]
        for box, detail in zip(packed, details, strict=True):
            box.Pack(detail)
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)
        serialised: bytes = status.SerializeToString()
        return serialised

    @property
    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """The trailing metadata that carries the details."""
        return ((DETAILS_KEY, self.details),)


def describe(error: errors.ServiceError) -> Status:
    """Say what a caller is told about an error; nothing of the inside in the case of our own fault."""
    code = CODES.get(type(error), grpc.StatusCode.INTERNAL)
    internal = code is grpc.StatusCode.INTERNAL
    message = INTERNAL_MESSAGE if internal else shorten(str(error))
    reason = errors.InternalFailure.reason if internal else error.reason
    retry_after_s = error.retry_after_s if isinstance(error, errors.Overloaded) else 0.0
    violations: tuple[pb.FieldViolation, ...] = ()
    if isinstance(error, errors.InvalidInput | errors.StepMismatch):
        field, expected, got = shorten(error.field), shorten(error.expected), shorten(error.got)
        violations = (pb.FieldViolation(field=field, expected=expected, got=got),)
    return Status(code, message, reason, retry_after_s, violations)


def shorten(text: str) -> str:
    """Cut a text that would not fit a header, and say so."""
    if len(text) <= MAX_TEXT_CHARACTERS:
        return text
    return f"{text[:MAX_TEXT_CHARACTERS]}... ({len(text)} characters in all)"
