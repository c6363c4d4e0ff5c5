"""gRPC statuses of the protocol's errors: the reference server's codes and texts, without details."""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from service.errors import ServiceError
from service.oip.errors import Code, OipError
from service.oip.failures import to_oip

CODES: Mapping[Code, grpc.StatusCode] = {
    "invalid_argument": grpc.StatusCode.INVALID_ARGUMENT,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "unimplemented": grpc.StatusCode.UNIMPLEMENTED,
    "already_exists": grpc.StatusCode.ALREADY_EXISTS,
    "cancelled": grpc.StatusCode.CANCELLED,
    "internal": grpc.StatusCode.INTERNAL,
    "deadline_exceeded": grpc.StatusCode.DEADLINE_EXCEEDED,
    "permission_denied": grpc.StatusCode.PERMISSION_DENIED,
}
MAX_ENCODED_BYTES = 4096  # of a message: HTTP/2 headers have 8 KiB for all, and a byte beyond ASCII takes 3 of them


@dataclass(frozen=True)
class InferenceStatus:
    """What a caller is told.

    Args:
        code: gRPC status code.
        message: For a person, and for clients that match on it.
        trailers: None.
    """

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, bytes], ...] = ()


def describe_inference(error: ServiceError | OipError) -> InferenceStatus:
    """Say what a caller of the protocol is told about an error."""
    told = error if isinstance(error, OipError) else to_oip(error)
    return InferenceStatus(CODES[told.code], shorten(told.message))


def shorten(message: str) -> str:
    """Cut a message that would not fit a header, and say so."""
    data = message.encode(errors="replace")
    if _encoded_bytes(data) <= MAX_ENCODED_BYTES:
        return data.decode()
    end = MAX_ENCODED_BYTES // 3
    return f"{data[:end].decode(errors='ignore')}... ({len(message)} characters in all)"


def _encoded_bytes(data: bytes) -> int:
    """How many bytes gRPC makes of a message: it escapes all but printable ASCII, and the escape itself."""
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in data)
