"""Who makes a call of the protocol, as its metadata and its address tell."""

from collections.abc import Iterable
from typing import cast
from urllib.parse import unquote

from service.caller import bearer_token, is_loopback
from service.oip.errors import OipError
from service.oip.shared_memory import Regions
from service.rpc.boundary import Context, deadline_s
from service.rpc.callers import caller_key

AUTHORIZATION = "authorization"


class InferenceCaller:
    """The caller of one call or stream.

    Args:
        context: gRPC's.
        regions: Of shared memory.

    Attributes:
        name: What it calls itself, or "".
        deadline_s: When its time is up, on time.monotonic; None: it set no deadline.

    Raises:
        InvalidInput: It calls itself something that is not 16 to 128 printable ASCII characters.
    """

    __slots__ = ("_context", "_regions", "deadline_s", "name")

    def __init__(self, context: Context, regions: Regions) -> None:
        self.name = caller_key(_metadata(context)) or ""
        self.deadline_s = deadline_s(context)
        self._context = context
        self._regions = regions

    @property
    def regions(self) -> Regions:
        """Those that it may name.

        Raises:
            OipError: None, since it is not on this machine.
        """
        return local_regions(self._context, self._regions)


def local_regions(context: Context, regions: Regions) -> Regions:
    """Give regions to a caller on this machine.

    Raises:
        OipError: It is elsewhere, and can share no memory.
    """
    if regions.enabled and not _is_local(context.peer()):
        raise OipError("permission_denied", "shared memory: expected a caller on this machine, got one elsewhere")
    return regions


def token_of(context: Context) -> str | None:
    """The bearer token that came with a call; None: there is none."""
    return bearer_token(value for key, value in _metadata(context) if key == AUTHORIZATION and isinstance(value, str))


def wants_status(context: Context) -> bool:
    """Whether a stream is to end with the status of its first error, as `triton_grpc_error: true` asks."""
    return any(key == "triton_grpc_error" and value == "true" for key, value in _metadata(context))


def _metadata(context: Context) -> Iterable[tuple[str, str | bytes]]:
    return cast(Iterable[tuple[str, str | bytes]], context.invocation_metadata() or ())


def _is_local(peer: str) -> bool:
    """Whether gRPC's name of a peer is one of this machine: `unix:...`, `ipv4:127.0.0.1:1234`, `ipv6:[::1]:1234`."""
    kind, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]")
    return kind in ("unix", "unix-abstract") or is_loopback(host)
