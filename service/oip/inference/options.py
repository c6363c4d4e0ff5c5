"""The parameters of a request that say how it is to be treated.

Other parameters are the client's own and are let through; those that begin with `triton_` are reserved.
"""

from typing import NamedTuple

from service.engine.interface import Priority
from service.oip.errors import OipError
from service.oip.messages import Parameters

SequenceId = int | str
MAX_ID_BYTES = 128  # of a sequence id that is a text
# How often a request wants to hear that it is over: for who answers on a stream.
EMPTY_FINAL = "triton_enable_empty_final_response"
PRIORITY_LEVELS, DEFAULT_PRIORITY_LEVEL = 3, 2
_PRIORITIES = {0: Priority.NORMAL, 1: Priority.HIGH, 2: Priority.NORMAL, 3: Priority.LOW}


class Options(NamedTuple):
    """How a request is to be treated.

    Args:
        sequence_id: 0 and "": it belongs to no sequence.
        start: Whether it is the first of the sequence.
        end: Whether it is the last.
        priority: Who goes first.
        timeout_s: How long it may wait before it runs, in seconds; 0: as long as it takes.
    """

    sequence_id: SequenceId = 0
    start: bool = False
    end: bool = False
    priority: Priority = Priority.NORMAL
    timeout_s: float = 0.0


_DEFAULT = Options()


def read_options(parameters: Parameters) -> Options:
    """Read the options among the parameters of a request.

    Raises:
        OipError: One has the wrong type or an impossible value, or a name that is reserved.
    """
    if not parameters:
        return _DEFAULT
    sequence_id: SequenceId = 0
    start = end = False
    priority, timeout_s = Priority.NORMAL, 0.0
    for name, value in parameters.items():
        kind = type(value)
        if name == "sequence_id":
            if kind is not int and kind is not str:
                raise _wrong_type(name, "int64_param or string_param")
            sequence_id = value  # type: ignore[assignment]
            if kind is str and len(value.encode(errors="surrogatepass")) > MAX_ID_BYTES:  # type: ignore[union-attr]
                raise OipError("invalid_argument", f"'sequence_id' parameter must have at most {MAX_ID_BYTES} bytes")
        elif name == "sequence_start":
            if kind is not bool:
                raise _wrong_type(name, "bool_param")
            start = value  # type: ignore[assignment]
        elif name == "sequence_end":
            if kind is not bool:
                raise _wrong_type(name, "bool_param")
            end = value  # type: ignore[assignment]
        elif name == "priority":
            if kind is not int or value < 0:  # type: ignore[operator]
                raise _wrong_type(name, "int64_param or uint64_param that is not negative")
            priority = _PRIORITIES.get(value, Priority.LOW)  # type: ignore[arg-type]
        elif name == "timeout":
            if kind is not int:
                raise _wrong_type(name, "int64_param")
            if value < 0:  # type: ignore[operator]
                raise OipError("invalid_argument", f"'timeout' parameter must not be negative, got {value}")
            timeout_s = value * 1e-6  # type: ignore[operator]
        elif name.startswith("triton_") and name != EMPTY_FINAL:
            raise OipError(
                "invalid_argument",
                f"parameter keys starting with 'triton_' are reserved for Triton usage, got '{name}'",
            )
    return Options(sequence_id, start, end, priority, timeout_s)


def _wrong_type(name: str, expected: str) -> OipError:
    return OipError("invalid_argument", f"invalid value type for '{name}' parameter, expected {expected}.")
