"""Who asks, as far as a request tells."""

from starlette.requests import Request

from service.oip.errors import OipError
from service.oip.shared_memory import is_local

CALLER = "carryover-caller"
MAX_CALLER_CHARACTERS = 128


def caller_of(request: Request) -> str:
    """What the caller calls itself: the sequences of different callers never meet. "": it does not say.

    Raises:
        OipError: It says something impossible.
    """
    values = request.headers.getlist(CALLER)
    name = values[0] if values else ""
    if len(values) > 1 or len(name) > MAX_CALLER_CHARACTERS or not (name.isascii() and name.isprintable()):
        expected = f"expected at most {MAX_CALLER_CHARACTERS} printable ASCII characters, once"
        raise OipError("invalid_argument", f"{CALLER}: {expected}, got something else")
    return name


def token_of(request: Request) -> str | None:
    """The bearer token that came with a request; None: there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def check_local(request: Request) -> None:
    """See whether the caller may name memory of this machine.

    Raises:
        OipError: It is on another one.
    """
    if request.client is None or not is_local(request.client.host):
        raise OipError(
            "permission_denied", "shared memory: expected a caller on the server's machine, got one that is not"
        )
