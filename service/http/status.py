"""One table from the protocol's errors to HTTP statuses, and the body that says what went wrong."""

import json
from collections.abc import Mapping

from starlette.responses import Response

from service.errors import ServiceError
from service.http.early import EarlyResponse, Unread
from service.oip.errors import Code, OipError
from service.oip.failures import INTERNAL, to_oip

JSON = "application/json"

# Those of the reference server, whose clients look at them, and where it has none the nearest one that HTTP has.
STATUSES: Mapping[Code, int] = {
    "invalid_argument": 400,
    "already_exists": 400,
    "cancelled": 400,
    "permission_denied": 403,
    "not_found": 404,
    "internal": 500,
    "unimplemented": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
}


class HttpError(Exception):
    """A request that HTTP itself has a status for.

    Args:
        status: The status.
        message: For the caller.
        close: Whether the rest of the request is of no use, so that the connection ends with the answer.
        headers: To go with it.
        unread: How much of the rest is read behind the answer, so that a caller who is still sending gets to see it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        close: bool = False,
        headers: Mapping[str, str] | None = None,
        unread: Unread | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.unread = unread
        self.headers = {**(headers or {}), **({"connection": "close"} if close else {})}


def describe(error: Exception) -> tuple[int, str]:
    """Say what a caller is told of an error; nothing of the inside where it is our own fault.

    Returns:
        HTTP status and message.
    """
    if isinstance(error, HttpError):
        return error.status, error.message
    if isinstance(error, OipError):
        return STATUSES[error.code], error.message
    if isinstance(error, ServiceError):
        return describe(to_oip(error))
    return STATUSES["internal"], INTERNAL


def error_body(message: str) -> bytes:
    """The protocol's error object."""
    return json.dumps({"error": message}).encode()


def error_response(error: Exception) -> Response:
    """Answer with an error."""
    status, message = describe(error)
    if not isinstance(error, HttpError):
        return Response(error_body(message), status, None, JSON)
    if error.unread is None:
        return Response(error_body(message), status, error.headers, JSON)
    response = EarlyResponse(error_body(message), status, error.headers, JSON)
    response.unread = error.unread
    return response
