"""Where the time is in a model without state that is told how long each row is."""

from dataclasses import replace
from typing import Final

from importing.errors import ImportRefused
from importing.signature import Dims, Signature, Value

TIME: Final = "T"
_OTHER: Final = "T_"  # what the model itself calls T and is not the time


def declare_time(signature: Signature, lengths: str) -> Signature:
    """Call the time `T` wherever it is: the first free size of each other input that is not the rows.

    Whether it is so is for the checks to show: padded rows must be what they are alone.

    Args:
        signature: Of the model.
        lengths: Name of the input that says how long each row is.

    Raises:
        ImportRefused: There is no such input, it is no vector of whole numbers, or nothing has a time.
    """
    value = signature.input(lengths)
    if len(value.shape) != 1 or value.dtype not in ("int32", "int64"):
        raise ImportRefused(f"--lengths: expected int32 or int64 of shape [B], got {value.dtype} {list(value.shape)}")
    named = bool(value.named)
    times = {
        size
        for other in signature.inputs
        if other.name != lengths and (size := _first_free(other, str(value.shape[0]) if named else None)) is not None
    }
    if not times:
        raise ImportRefused("--lengths: expected an input with a free size beside the rows, got none")
    names = dict.fromkeys(times, TIME) if TIME in times else {TIME: _OTHER, **dict.fromkeys(times, TIME)}

    def rename(values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(replace(each, dims=_rename(each.dims, names)) for each in values)

    return replace(signature, inputs=rename(signature.inputs), outputs=rename(signature.outputs))


def _first_free(value: Value, rows: str | None) -> str | None:
    """The first free size that is not the rows; where nobody named those, they are first."""
    sizes = value.shape[1:] if rows is None else value.shape
    return next((size for size in sizes if isinstance(size, str) and size != rows), None)


def _rename(dims: Dims | None, names: dict[str, str]) -> Dims | None:
    return None if dims is None else tuple(names.get(size, size) if isinstance(size, str) else size for size in dims)
