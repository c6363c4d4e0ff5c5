"""Look into a model: find its rows, its free sizes and the shapes of what it gives, and prove each by running it."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from importing.analysis.meeting import rows_meet
from importing.analysis.output_shapes import Observation, row_shape
from importing.analysis.padding import TIME
from importing.analysis.proof import NotRows, prove_rows
from importing.analysis.rows import Guess, fixed_axes, guesses
from importing.analysis.sizes import Search, is_shared
from importing.analysis.trace import Joined
from importing.analysis.walk import Conditions, Original, Walk, initial_row
from importing.compare import difference, is_close
from importing.errors import ImportRefused
from importing.layout import Layout, OwnTensor, StateTensor, public_size
from importing.pool_names import pool_names
from importing.session import RunFailed
from importing.signature import Dims, Value

# Whether rows share runs: where that is proved and no operator joins them, where it is proved, or never.
Company = Literal["proved", "insisted", "never"]


@dataclass(frozen=True)
class Analysis:
    """What was found.

    Args:
        layout: Of the model.
        conditions: Under which it runs.
    """

    layout: Layout
    conditions: Conditions


def analyse(
    original: Original,
    search: Search,
    axes: Mapping[str, int | None],
    lengths: str | None = None,
    company: Company = "proved",
) -> Analysis:
    """Find everything out.

    Args:
        original: The model.
        search: For sizes with which it runs.
        axes: By state's input, the axis that its owner says has the rows; None: to be found.
        lengths: Of a model without state, the input that says how long each row is.
        company: Whether rows share runs.

    Raises:
        ImportRefused: It runs under no sizes that were tried, or what is found cannot be served.
    """
    for name, axis in axes.items():
        shape = original.signature.input(name).shape
        if axis is not None and (axis >= len(shape) or (shape[axis] != 1 and not isinstance(shape[axis], str))):
            raise ImportRefused(
                f"state {name}: axis: expected one whose size is free or 1, got {axis} of {list(shape)}"
            )
    notes: list[str] = []
    free = guesses(original.signature, axes)
    for guess in free if company != "never" else ():
        conditions = search.find(guess, batched=True) if guess.whole else None
        if conditions is None:
            continue
        _check_repeats(original, search, conditions)
        try:
            output_axes = prove_rows(original, search, conditions)
        except (NotRows, RunFailed) as reason:
            notes.append(f"its rows could not be told apart: {reason}")
            continue
        meeting = None
        if company != "insisted":
            varied = search.varied(conditions)
            meeting = rows_meet(original, varied, functools.partial(search.draw_step, rows=1), output_axes)
        if meeting is None:
            return _conclude(original, search, conditions, output_axes, (), lengths)
        sure = "meet" if isinstance(meeting, Joined) else "may meet"
        notes.append(f"its rows {sure}: {meeting.reason} (--batched if that makes no difference)")
        if guess.likely:
            break  # these are the rows; what else might pass for them is not
    if company == "insisted":
        why = notes[0] if notes else "its batch is fixed"
        raise ImportRefused(f"--batched: expected rows that can share a run, got others: {why}")
    guess = _one_row(original, free, axes)
    conditions = search.find(guess, batched=False)
    if conditions is None:
        raise ImportRefused(
            f"expected sizes with which the model runs, got none (name them with --example NAME=VALUE; free are "
            f"{search.free_names(guess) or 'none'}): {search.last_failure}"
        )
    _check_repeats(original, search, conditions)
    why = "as was asked" if company == "never" else "its batch is fixed"
    why = notes[0] if notes else why
    if lengths is not None:
        raise ImportRefused(f"--lengths: expected a model whose rows can share a run, got one that cannot: {why}")
    told = [f"runs unbatched, one row at a time: {why}"]
    if not notes and company != "never":
        told += _held_at_one(original, guess)
    return _conclude(original, search, conditions, {}, tuple(told), None)


def _held_at_one(original: Original, guess: Guess) -> list[str]:
    """Sizes that the file leaves free, and that are rows although the batch is fixed elsewhere."""
    held = []
    for value in original.own_inputs:
        axis = guess.axes[value.name]
        if axis is not None and isinstance(size := value.shape[axis], str):
            held.append(f"input {value.name}: its free size {size} is taken for the rows, and is always 1")
    return held


def _one_row(original: Original, free: Sequence[Guess], axes: Mapping[str, int | None]) -> Guess:
    """Where the one row of a run is; a free axis that is likely the rows is kept at one."""
    fixed = fixed_axes(original.signature, axes)
    likely = next((guess for guess in free if guess.likely), fixed)
    return Guess({name: fixed.axes[name] if axis is None else axis for name, axis in likely.axes.items()})


def _conclude(
    original: Original,
    search: Search,
    conditions: Conditions,
    output_axes: Mapping[str, int],
    notes: tuple[str, ...],
    lengths: str | None,
) -> Analysis:
    fixed = _state_sizes(original, search, conditions)
    observed = _observe(original, search, conditions)
    names = _public_names(search.free_names(conditions.guess), fixed, lengths is not None)
    guess = conditions.guess
    inputs = [
        OwnTensor(
            value.name,
            value.dtype,
            guess.axes[value.name],
            _public(_without(value.shape, guess.axes[value.name]), names),
            is_shared(value, guess, conditions.batched),
        )
        for value in original.own_inputs
    ]
    outputs = []
    for value in original.own_outputs:
        if value.name in guess.axes and value.name not in {pair.input for pair in original.pairs}:
            notes += (f"output {value.name} is left out: it is the input of that name as it came",)
            continue
        axis = output_axes[value.name] if conditions.batched else _single_axis(value, observed)
        shape = row_shape(value, axis, observed)
        outputs.append(OwnTensor(value.name, value.dtype, axis, _public(shape, names)))
    states = []
    taken = {tensor.name for tensor in (*inputs, *outputs)}
    for pair, name in zip(original.pairs, pool_names([p.input for p in original.pairs], taken), strict=True):
        value = original.signature.input(pair.input)
        axis, shape = guess.axes[pair.input], conditions.row_shape(value)
        given = original.initial.get(pair.input)
        initial = None if given is None else initial_row(value, shape, axis, given)
        states.append(StateTensor(name, pair.input, pair.output, value.dtype, axis, shape, initial, pair.found))
    layout = Layout(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        states=tuple(states),
        max_rows=None if conditions.batched else 1,
        sizes={str(names[name]): size for name, size in conditions.sizes.items() if isinstance(names[name], str)},
        shared=conditions.shared,
        lengths=lengths,
        notes=notes,
    )
    return Analysis(layout, conditions)


def _check_repeats(original: Original, search: Search, conditions: Conditions) -> None:
    """What is compared with a model must itself be the same each time."""
    inputs = search.draw_step(conditions, 1)
    first, second = (Walk(original, conditions, 1).step(inputs) for _ in range(2))
    for value in original.own_outputs:
        apart = difference(value.dtype, first[value.name], second[value.name])
        if not is_close(value.dtype, apart):
            raise ImportRefused(
                f"output {value.name}: expected the same in two runs on the same inputs, got a difference of "
                f"{apart:.3g}: a model that draws at random cannot be checked"
            )


def _state_sizes(original: Original, search: Search, conditions: Conditions) -> dict[str, int]:
    """Sizes that states have, which a pool needs to know: the model must leave no choice of them."""
    fixed = {}
    for pair in original.pairs:
        value = original.signature.input(pair.input)
        for size in _without(value.shape, conditions.guess.axes[pair.input]):
            if not isinstance(size, str) or size in fixed:
                continue
            fixed[size] = conditions.sizes[size]
            other = search.another(conditions, size)
            if other is not None:
                raise ImportRefused(
                    f"state {pair.input}={pair.output}: expected one size of {size}, got at least two that work "
                    f"({conditions.sizes[size]} and {other.sizes[size]}): say which with --example {size}=SIZE"
                )
    return fixed


def _observe(original: Original, search: Search, conditions: Conditions) -> list[Observation]:
    """Run one row under these sizes, and again with two others of each free size."""
    varied = [conditions]
    for name in search.free_names(conditions.guess):
        if (other := search.another(conditions, name)) is not None:
            varied.append(other)
            # Two points lie on many curves.
            if (third := search.larger(max(conditions, other, key=lambda each: each.sizes[name]), name)) is not None:
                varied.append(third)
    observed = []
    for each in varied:
        outputs = Walk(original, each, 1).step(search.draw_step(each, 1))
        observed.append(Observation(each.sizes, {name: array.shape for name, array in outputs.items()}))
    return observed


def _single_axis(value: Value, observed: Sequence[Observation]) -> int | None:
    """Which axis of an output has the one row: the first if it is one whatever the sizes are, or none."""
    if any(each.shapes[value.name][:1] != (1,) for each in observed):
        return None
    declared = value.dims[0] if value.dims else None
    sizes = {each.sizes.get(declared, 0) for each in observed} if isinstance(declared, str) else set()
    return None if sizes == {1} else 0  # a free size that was one in every run may be what it has


def _public_names(free: Sequence[str], fixed: Mapping[str, int], timed: bool) -> dict[str, int | str]:
    """What each free size is called in the manifest, where some names mean something; a number where it is fixed."""
    return {name: fixed.get(name, name if timed and name == TIME else public_size(name)) for name in free}


def _public(shape: Dims, names: Mapping[str, int | str]) -> Dims:
    return tuple(names.get(size, size) if isinstance(size, str) else size for size in shape)


def _without(shape: Dims, axis: int | None) -> Dims:
    return tuple(size for index, size in enumerate(shape) if index != axis)
