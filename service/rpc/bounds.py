"""Numbers of a request: the default where it leaves one open, an error where it is out of bounds."""

from collections.abc import Mapping

from google.protobuf.message import Message

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import Priority
from service.errors import InvalidInput


def whole(field: str, value: int, default: int, low: int, high: int) -> int:
    """Give an integer field; 0 is absent.

    Raises:
        InvalidInput: It is not within `low` to `high`.
    """
    if value == 0:
        return default
    if not low <= value <= high:
        raise InvalidInput(field, f"{low} to {high}, or 0 for the default", str(value))
    return value


def real(request: Message, field: str, default: float, low: float, high: float, *, above: bool = False) -> float:
    """Give an optional float field.

    Args:
        request: Whose field.
        field: Its name.
        default: Where it is absent.
        low: Least value.
        high: Greatest value.
        above: Whether `low` itself is out of bounds.

    Raises:
        InvalidInput: It is out of bounds or not a number.
    """
    if not request.HasField(field):
        return default
    value: float = getattr(request, field)
    if not low <= value <= high or (above and value == low):  # NaN fails every comparison
        raise InvalidInput(field, f"{'above ' if above else ''}{low:g} to {high:g}", f"{value:g}")
    return value


_PRIORITY: Mapping[int, Priority] = {
    pb.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    pb.PRIORITY_LOW: Priority.LOW,
    pb.PRIORITY_NORMAL: Priority.NORMAL,
    pb.PRIORITY_HIGH: Priority.HIGH,
}


def priority(field: str, value: int) -> Priority:
    """Give the engine's word for a priority.

    Raises:
        InvalidInput: It is none of the enum's.
    """
    known = _PRIORITY.get(value)  # an open enum: any number may come
    if known is None:
        raise InvalidInput(field, "a known priority", str(value))
    return known
