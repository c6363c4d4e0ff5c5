"""Which sizes an output has, told from runs: a declaration may be wrong, and nobody checks it when a model is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from importing.signature import Dims, Value


@dataclass(frozen=True)
class Observation:
    """What one row gave.

    Args:
        sizes: By name of a free size of the inputs, which it was.
        shapes: By output.
    """

    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]


def row_shape(value: Value, axis: int | None, observed: Sequence[Observation]) -> Dims:
    """Sizes of one row of an output.

    Args:
        value: The output as declared.
        axis: Which axis has the rows.
        observed: Runs under various sizes.

    Returns:
        A number where the declaration says so and no run disagrees; the name of an input's size where all runs have
        that; a name of its own where only a run tells.
    """
    rank = len(observed[0].shapes[value.name])
    return tuple(_size(value, index, observed) for index in range(rank) if index != axis)


def _size(value: Value, index: int, observed: Sequence[Observation]) -> int | str:
    seen = [each.shapes[value.name][index] if index < len(each.shapes[value.name]) else None for each in observed]
    declared = value.dims[index] if value.dims is not None and index < len(value.dims) else None
    if isinstance(declared, int) and all(size == declared for size in seen):
        return declared
    # A name that one run alone speaks for may be a coincidence, unless the declaration says it too.
    names = [declared] if declared in observed[0].sizes else []
    if len(set(seen)) > 1:
        names += list(observed[0].sizes)
    for name in names:
        if isinstance(name, str) and all(each.sizes[name] == size for each, size in zip(observed, seen, strict=True)):
            return name
    own = f"{value.name}_{index}"
    while own in observed[0].sizes:
        own += "_"
    return own
