"""Which outputs are the next values of which inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

from importing.errors import ImportRefused
from importing.signature import Array, Signature, same_sizes


@dataclass(frozen=True)
class StateOption:
    """What `--state` says of one state.

    Args:
        input: Name in the original.
        output: Name in the original.
        axis: Which of the original's axes has the rows; None: to be found.
        initial: What a sequence starts from: a number for all of it, or an array; None: zeros, or the input's default.
    """

    input: str
    output: str
    axis: int | None = None
    initial: float | Array | None = None


@dataclass(frozen=True)
class Pair:
    """An input and the output that is its next value.

    Args:
        input: Name in the original.
        output: Name in the original.
        found: Why it is thought so.
    """

    input: str
    output: str
    found: str


def check_pairs(signature: Signature, pairs: Sequence[Pair]) -> None:
    """Check that they can be states.

    Raises:
        ImportRefused: A name is wrong or used twice, or types or sizes differ.
    """
    for kind, names in (("input", [pair.input for pair in pairs]), ("output", [pair.output for pair in pairs])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ImportRefused(f"states: expected each {kind} once, got {', '.join(twice)} twice")
    for pair in pairs:
        given, returned = signature.input(pair.input), signature.output(pair.output)
        what = f"state {pair.input}={pair.output}"
        if given.dtype != returned.dtype:
            raise ImportRefused(f"{what}: expected one type, got {given.dtype} and {returned.dtype}")
        if given.dtype == "string":
            raise ImportRefused(f"{what}: expected numbers, got text, which cannot lie in a pool")
        if not same_sizes(given.shape, returned.dims):
            raise ImportRefused(f"{what}: expected one shape, got {list(given.shape)} and {list(returned.dims or ())}")
