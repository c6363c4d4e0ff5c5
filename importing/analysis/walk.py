"""Run the original under a guess of where its rows are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from importing.analysis.rows import Guess
from importing.errors import ImportRefused
from importing.session import RunFailed, Session
from importing.signature import Array, Signature, Value, is_float, zeros
from importing.states.pairs import Pair

Step = Mapping[str, Array]  # by own input, (rows, *shape of one row); shared inputs are not among them


@dataclass(frozen=True)
class Original:
    """A model as it came, opened.

    Args:
        model: As read.
        signature: What it takes and gives.
        session: Runs it.
        pairs: Its states.
        initial: By state's input, what a sequence starts from, as given; others start from zeros.
    """

    model: onnx.ModelProto
    signature: Signature
    session: Session
    pairs: tuple[Pair, ...]
    initial: Mapping[str, float | Array]

    @property
    def own_inputs(self) -> list[Value]:
        """Inputs that are no state."""
        states = {pair.input for pair in self.pairs}
        return [value for value in self.signature.inputs if value.name not in states]

    @property
    def own_outputs(self) -> list[Value]:
        """Outputs that are no state."""
        states = {pair.output for pair in self.pairs}
        return [value for value in self.signature.outputs if value.name not in states]


@dataclass(frozen=True)
class Conditions:
    """Under what a model is run.

    Args:
        guess: Where its rows are.
        batched: Whether a run may have several; otherwise inputs without rows of their own are given one at a time.
        sizes: By name of a free size, which.
        shared: By input that all rows share, its value.
    """

    guess: Guess
    batched: bool
    sizes: Mapping[str, int]
    shared: Mapping[str, Array]

    def row_shape(self, value: Value) -> tuple[int, ...]:
        """Sizes of one row of an input."""
        axis = self.guess.axes[value.name]
        dims = [size for index, size in enumerate(value.shape) if index != axis]
        return tuple(size if isinstance(size, int) else self.sizes[size] for size in dims)


class Walk:
    """A batch of sequences run through the original, step by step.

    Args:
        original: The model.
        conditions: How it is run.
        rows: Sequences; 1 unless batched.
    """

    def __init__(self, original: Original, conditions: Conditions, rows: int) -> None:
        self._original, self._conditions, self._rows = original, conditions, rows
        self.states = {pair.input: self._first(pair.input) for pair in original.pairs}

    def step(self, inputs: Step) -> dict[str, Array]:
        """Take a step.

        Returns:
            The original's own outputs as they came.

        Raises:
            RunFailed: The model did not take it, or a state did not come back in its shape.
        """
        results = self._original.session.run(self.feeds(inputs))
        for pair in self._original.pairs:
            state = results.pop(pair.output)
            if state.shape != self.states[pair.input].shape:
                raise RunFailed(
                    f"state {pair.input}={pair.output}: expected the shape that it had, "
                    f"{list(self.states[pair.input].shape)}, got {list(state.shape)}"
                )
            self.states[pair.input] = state
        return results

    def feeds(self, inputs: Step) -> dict[str, Array]:
        """All that the original takes in a step, as it takes it."""
        axes = self._conditions.guess.axes
        feeds = {**self._conditions.shared, **self.states}
        for name, array in inputs.items():
            axis = axes[name]
            feeds[name] = array[0] if axis is None else np.moveaxis(array, 0, axis)
        return feeds

    def _first(self, name: str) -> Array:
        """The initial state of every row, as the original has it."""
        value = self._original.signature.input(name)
        shape = self._conditions.row_shape(value)
        row = initial_row(value, shape, self._conditions.guess.axes[name], self._original.initial.get(name))
        axis = self._conditions.guess.axes[name]
        return row if axis is None else np.repeat(np.expand_dims(row, axis), self._rows, axis)


def initial_row(value: Value, shape: tuple[int, ...], axis: int | None, given: float | Array | None) -> Array:
    """What one sequence starts from, of a row's shape.

    Raises:
        ImportRefused: What was given is of another shape, or the state's type does not have it.
    """
    if given is None:
        return zeros(value.dtype, shape)
    array = np.asarray(given)
    if not array.ndim:
        array = np.broadcast_to(array, shape)
    elif axis is not None and array.ndim == len(shape) + 1 and array.shape[axis] == 1:
        array = array.squeeze(axis)
    if array.shape != shape:
        got = list(array.shape)
        raise ImportRefused(f"state {value.name}: expected an initial value of shape {list(shape)}, got {got}")
    return _convert(value, array)


def _convert(value: Value, array: Array) -> Array:
    """Values as the state's type has them: floats may be rounded, nothing else may change."""
    numbers = array.dtype.kind in "biuf"
    if numbers and value.dtype == "bfloat16":
        # The upper half of a float32 is a bfloat16; its bits may be given as they are.
        return array if array.dtype == np.uint16 else (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if numbers:
        with np.errstate(invalid="ignore", over="ignore"):
            converted = array.astype(value.dtype)
        if is_float(value.dtype) or np.array_equal(converted, array):
            return converted
    got = f"{array.dtype} {array.flat[0]}" if array.size else str(array.dtype)
    raise ImportRefused(f"state {value.name}: expected an initial value of type {value.dtype}, got {got}")


def stack(rows: Sequence[Step]) -> Step:
    """Put several sequences' inputs of a step together."""
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
