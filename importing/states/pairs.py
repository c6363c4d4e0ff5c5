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


def check_pairs(signature: Signature, pairs: Sequence[Pair], inputs: Sequence[str] = ()) -> None:
    """Check that they can be states, and that the rest can be served beside them.

    Args:
        signature: Of the model.
        pairs: Its states.
        inputs: What its owner says is no state.

    Raises:
        ImportRefused: A name is wrong or used twice, types or sizes differ, or something beside the states is text.
    """
    for name in inputs:
        signature.input(name)
        if any(pair.input == name for pair in pairs):
            raise ImportRefused(f"--input {name}: expected an input that is no state, got one that is given as one")
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
    if pairs:
        _check_no_text(signature)


def _check_no_text(signature: Signature) -> None:
    """The runtime binds no text, and what is not bound is copied: a pool would be, whole, with each step."""
    for kind, values in (("input", signature.inputs), ("output", signature.outputs)):
        for value in values:
            if value.dtype == "string":
                raise ImportRefused(
                    f"{kind} {value.name}: expected numbers in a model with state, got text, which the runtime cannot "
                    "bind, while states are updated in place through bindings"
                )
