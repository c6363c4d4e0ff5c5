"""What is wrong with a request is said before it is sent, with the field's name."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from carryover.client.errors import InvalidArgument

_P = ParamSpec("_P")
_M = TypeVar("_M")


def checked(build: Callable[_P, _M]) -> Callable[_P, _M]:
    """Turn what protobuf refuses (text that is not Unicode, a wrong type) into an InvalidArgument."""

    @functools.wraps(build)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _M:
        try:
            return build(*args, **kwargs)
        except UnicodeEncodeError as error:
            got = f"a lone surrogate at position {error.start}"
            raise InvalidArgument(f"text: expected valid Unicode, got {got}", "INVALID_ARGUMENT") from None
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"request: {error}", "INVALID_ARGUMENT") from None

    return wrapped


def in_range(name: str, value: int, low: int, high: int) -> None:
    """Refuse what protobuf itself would refuse with a ValueError that names no field.

    Raises:
        InvalidArgument: It is not within `low` to `high`.
    """
    if not low <= value <= high:
        raise InvalidArgument(f"{name}: expected {low} to {high}, got {value}", "INVALID_ARGUMENT")
