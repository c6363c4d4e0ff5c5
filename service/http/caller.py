"""Who asks, as far as a request tells."""

from starlette.requests import Request

from service.errors import InvalidInput
from service.oip.errors import OipError
from service.oip.shared_memory import is_local

CALLER = "carryover-caller"
MIN_CALLER_CHARACTERS, MAX_CALLER_CHARACTERS = 16, 128  # as the gRPC door has them


def caller_of(request: Request) -> str:
    """What the caller calls itself: the sequences of different callers never meet. "": it does not say.

    Raises:
        InvalidInput: It says something that is not 16 to 128 printable ASCII characters.
    """
    values = request.headers.getlist(CALLER)
    if not values:
        return ""
    expected = f"{MIN_CALLER_CHARACTERS} to {MAX_CALLER_CHARACTERS} printable ASCII characters, once"
    if len(values) > 1:
        raise InvalidInput(CALLER, expected, f"{len(values)} values")
    (name,) = values
    if not name.isascii() or not name.isprintable():
        raise InvalidInput(CALLER, expected, "other characters")  # what it is stays between the caller and us
    if not MIN_CALLER_CHARACTERS <= len(name) <= MAX_CALLER_CHARACTERS:
        raise InvalidInput(CALLER, expected, f"{len(name)} characters")
    return name


def token_of(request: Request) -> str | None:
    """The bearer token that came with a request; None: there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def check_local(request: Request) -> None:
    """See whether the caller may name memory of this machine.

    Raises:
        OipError: It is on another one; or it is a page in a browser, which has its origin elsewhere and says so.
    """
    if request.client is None or not is_local(request.client.host) or "origin" in request.headers:
        raise OipError("permission_denied", "shared memory: expected a caller on this machine, got one elsewhere")
