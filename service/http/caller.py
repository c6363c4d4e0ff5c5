"""Who asks, as far as a request tells."""

from starlette.requests import Request

from service.caller import CALLER_KEY, bearer_token, caller_name, is_loopback
from service.oip.errors import OipError


def caller_of(request: Request) -> str:
    """What the caller calls itself: the sequences of different callers never meet. "": it does not say.

    Raises:
        InvalidInput: It says something that is not 16 to 128 printable ASCII characters.
    """
    return caller_name(request.headers.getlist(CALLER_KEY)) or ""


def token_of(request: Request) -> str | None:
    """The bearer token that came with a request; None: there is none."""
    return bearer_token(request.headers.getlist("authorization"))


def check_local(request: Request) -> None:
    """See whether the caller may name memory of this machine.

    Raises:
        OipError: It is on another one; or it is a page in a browser, which has its origin elsewhere and says so.
    """
    if request.client is None or not is_loopback(request.client.host) or "origin" in request.headers:
        raise OipError("permission_denied", "shared memory: expected a caller on this machine, got one elsewhere")
