"""Who makes a call, as far as its words and its address tell; whichever wire it came over."""

import ipaddress
from collections.abc import Iterable, Sequence

from service.errors import InvalidInput

CALLER_KEY = "carryover-caller"  # of gRPC's metadata and HTTP's headers
MIN_CALLER_CHARACTERS, MAX_CALLER_CHARACTERS = 16, 128
_BEARER = "bearer"  # schemes are the same in whatever case: RFC 9110, 11.1


def caller_name(values: Sequence[str | bytes]) -> str | None:
    """What a caller calls itself; None where it does not say.

    Args:
        values: Those that came under CALLER_KEY.

    Raises:
        InvalidInput: Something that is not 16 to 128 printable ASCII characters.
    """
    if not values:
        return None
    expected = f"{MIN_CALLER_CHARACTERS} to {MAX_CALLER_CHARACTERS} printable ASCII characters, once"
    if len(values) > 1:
        raise InvalidInput(CALLER_KEY, expected, f"{len(values)} values")
    (value,) = values
    name = value if isinstance(value, str) else value.decode("latin-1")
    if not name.isascii() or not name.isprintable():
        raise InvalidInput(CALLER_KEY, expected, "other characters")  # what it is stays between the caller and us
    if not MIN_CALLER_CHARACTERS <= len(name) <= MAX_CALLER_CHARACTERS:
        raise InvalidInput(CALLER_KEY, expected, f"{len(name)} characters")
    return name


def bearer_token(authorizations: Iterable[str]) -> str | None:
    """The token of the first `Bearer` among the values that came under `authorization`; None where there is none."""
    for value in authorizations:
        scheme, _, token = value.partition(" ")
        if scheme.lower() == _BEARER:
            return token.strip()
    return None


def is_loopback(host: str) -> bool:
    """Whether an address is one that only callers on this machine have; anything but an IP address is not."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None  # on a dual-stack socket
    return (mapped or address).is_loopback
