"""Reads fields of parsed JSON: the value, or an error in the words of the protocol's clients."""

import json
from typing import Any, TypeVar

from service.oip.errors import OipError
from service.oip.messages import Parameter

_NAMES = {dict: "an object", list: "an array", str: "text", bool: "true or false", int: "an integer"}
_LEAST, _MOST = -(2**63), 2**64 - 1  # the integers that the protocol has

Fields = dict[str, Any]
T = TypeVar("T")


def read_json(data: bytes | memoryview) -> Fields:
    """Parse an object; no bytes are an empty one.

    Raises:
        OipError: It is not an object in JSON.
    """
    if not data:
        return {}
    try:
        fields = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise OipError("invalid_argument", f"failed to parse the request JSON buffer: {reason}") from None
    if not isinstance(fields, dict):
        raise OipError("invalid_argument", "failed to parse the request JSON buffer: expected an object")
    return fields


def take(fields: Fields, name: str, kind: type[T], default: T | None = None) -> T:
    """Give a field.

    Args:
        fields: Of the object.
        name: Of the field.
        kind: What it has to be: a JSON type's Python type; an integer is no boolean.
        default: Where it is absent or null; None: it may not be.

    Raises:
        OipError: It is absent or something else.
    """
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not kind:
        raise unparsed(name, _NAMES[kind], value, name in fields)
    return value


def whole(fields: Fields, name: str, default: int | None = None) -> int:
    """Give a field that is a size or an offset.

    Raises:
        OipError: It is absent, no integer or negative.
    """
    value = take(fields, name, int, default)
    if not 0 <= value <= _MOST:
        raise unparsed(name, "an integer from 0 to 2**64 - 1", value, True)
    return value


def objects(fields: Fields, name: str, default: list[Any] | None = None) -> list[Fields]:
    """Give a field that is a list of objects.

    Raises:
        OipError: It is absent or something else.
    """
    values = take(fields, name, list, default)
    for value in values:
        if type(value) is not dict:
            raise unparsed(name, "an array of objects", value, True)
    return values


def parameters(fields: Fields) -> dict[str, Parameter]:
    """Give the parameters of an object.

    Raises:
        OipError: One is no text, boolean or number that the protocol has.
    """
    given = take(fields, "parameters", dict, {})
    for name, value in given.items():
        if type(value) not in (bool, int, str, float):
            raise OipError(
                "invalid_argument",
                f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'.",
            )
        if type(value) is int and not _LEAST <= value <= _MOST:
            raise unparsed(name, "an integer of 64 bits", value, True)
    return given


def unparsed(name: str, expected: str, value: object, there: bool) -> OipError:
    """Say that a field is not what it has to be."""
    if not there:
        got = "none"
    elif isinstance(value, bool | int | float) or value is None:
        got = str(value)[:40]
    else:
        got = _NAMES[type(value)]
    return OipError("invalid_argument", f"Unable to parse '{name}': expected {expected}, got {got}")
