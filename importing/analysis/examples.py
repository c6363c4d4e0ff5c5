"""Sizes and values that a model's owner says work: `--example`, held against what the model has."""

from collections.abc import Mapping
from dataclasses import dataclass

from importing.analysis.walk import Conditions, Original
from importing.errors import ImportRefused
from importing.layout import public_size
from importing.signature import Signature, has_number


@dataclass(frozen=True)
class Examples:
    """What was said.

    Args:
        sizes: By name of a free size.
        shared: By input.
    """

    sizes: Mapping[str, int]
    shared: Mapping[str, float]


def read_examples(given: Mapping[str, float], original: Original, declared: Signature) -> Examples:
    """Sort what was said into sizes and values.

    Args:
        given: By name.
        original: The model, with the sizes that follow filled in.
        declared: Its signature as the file has it.

    Raises:
        ImportRefused: A name is neither a free size's nor an input's, or a number is none that it can have.
    """
    own = {value.name: value for value in original.own_inputs}
    known = {
        name: size
        for before, after in zip(declared.inputs, original.signature.inputs, strict=True)
        for name, size in zip(before.shape, after.shape, strict=True)
        if isinstance(name, str)
    }
    stated = list(known)
    free = [size for size in known.values() if isinstance(size, str)]
    known = {public_size(size): size for size in free} | known | {size: size for size in free}
    sizes: dict[str, int] = {}
    shared: dict[str, float] = {}
    for name, number in given.items():
        if name in own:
            if not has_number(own[name].dtype, number):
                raise ImportRefused(f"--example {name}: expected a number of type {own[name].dtype}, got {number}")
            shared[name] = number
        elif name in known:
            _add_size(sizes, name, known[name], number)
        else:
            names = ", ".join([*dict.fromkeys([*free, *stated]), *own]) or "none"
            raise ImportRefused(f"--example: expected the name of a free size or of an input ({names}), got {name!r}")
    return Examples(sizes, shared)


def check_used(given: Examples, conditions: Conditions) -> None:
    """Check that what was said of a model has been heeded.

    Raises:
        ImportRefused: A size is that of the batch, which any number of rows may have, or rows have the input each for
            itself.
    """
    if unused := sorted(given.sizes.keys() - conditions.sizes.keys()):
        raise ImportRefused(f"--example {unused[0]}: expected a free size that is not the rows of a batch, got theirs")
    if unused := sorted(given.shared.keys() - conditions.shared.keys()):
        raise ImportRefused(
            f"--example {unused[0]}: expected an input that all rows share, got one of which each row has its own"
        )


def _add_size(sizes: dict[str, int], name: str, size: int | str, number: float) -> None:
    """Note a size by the name that it has now; a number where nothing is free any more."""
    if number < 1 or not has_number("int64", number):
        raise ImportRefused(f"--example {name}: expected a whole number of at least 1, got {number}")
    if isinstance(size, int):
        if number != size:
            raise ImportRefused(f"--example {name}: expected {size}, which follows from the graph, got {number}")
        return
    if sizes.setdefault(size, int(number)) != number:
        raise ImportRefused(f"--example {name}: expected one number of {size}, got {sizes[size]} and {number}")
