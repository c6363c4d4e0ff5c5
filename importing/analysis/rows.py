"""Where a model's rows may be: guesses in order of plausibility, for `importing.analysis.walk` to prove or refute.

Exporters name the batch axis, leave it nameless, or fix it. A guess picks, for each input, the axis that has the rows
or none; a size that the model names in several places is the rows everywhere or nowhere.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from importing.signature import Signature, Value

_MOST_GUESSES: Final = 48
_MOST_COMBINATIONS: Final = 20_000
_ROWS_NAME: Final = re.compile(r"(?i)(^|_|\b)(n|b|bs|batch\w*|\w*batch|batch_?size|rows?|num_?(seqs?|samples|rows))$")
# What a guess costs: the least is tried first.
_UNLIKELY, _NONE = 1.0, 4.0


@dataclass(frozen=True)
class Guess:
    """Where the rows are.

    Args:
        axes: By input, which axis; None: it has none.
        likely: Whether these are places or names that rows usually have.
        whole: Whether every state has rows; otherwise a state is one sequence's alone, and so is the whole run.
    """

    axes: Mapping[str, int | None]
    likely: bool = True
    whole: bool = True


@dataclass(frozen=True)
class _Choice:
    """One thing to decide: axes that have the rows together or not at all, and what it costs to say so."""

    axes: Mapping[str, int]
    cost: float
    likely: bool = True


def guesses(signature: Signature, states: Mapping[str, int | None]) -> list[Guess]:
    """List guesses under which the rows are free, the likeliest first, those with rows in every state before others.

    Args:
        signature: Of the model.
        states: By input that is a state, the axis that is known to have its rows; None: not known.
    """
    decisions = [*_named(signature, states), *_nameless(signature, states)]
    size = 1
    for index, options in enumerate(decisions):
        size *= len(options)
        if size > _MOST_COMBINATIONS:  # the rest is decided by what is likeliest
            decisions[index] = options[:1]
            size //= len(options)
    found: dict[tuple[int | None, ...], tuple[float, Guess]] = {}
    for choices in itertools.product(*decisions):
        axes: dict[str, int | None] = {value.name: None for value in signature.inputs}
        clash = False
        for choice in choices:
            clash |= any(axes[name] is not None for name in choice.axes)
            axes.update(choice.axes)
        wrong = any(axis is not None and axes[name] != axis for name, axis in states.items())
        if clash or wrong or all(axis is None for axis in axes.values()):
            continue
        cost = sum(choice.cost for choice in choices)
        likely, whole = all(choice.likely for choice in choices), all(axes[name] is not None for name in states)
        found.setdefault(tuple(axes.values()), (cost, Guess(axes, likely, whole)))
    return [guess for _, guess in sorted(found.values(), key=lambda item: (not item[1].whole, item[0]))[:_MOST_GUESSES]]


def _named(signature: Signature, states: Mapping[str, int | None]) -> list[list[_Choice]]:
    """For each size that the model names: it is the rows, or it is not."""
    symbols: dict[str, list[tuple[Value, int]]] = {}
    for value in signature.inputs:
        for axis in sorted(value.named):
            symbols.setdefault(str(value.shape[axis]), []).append((value, axis))
    decisions = []
    for symbol, places in symbols.items():
        axes = {value.name: axis for value, axis in places}
        refuted = len(axes) < len(places)  # twice in one input
        likely = bool(_ROWS_NAME.search(symbol))
        cost = sum(_axis_cost(value, axis, states) for value, axis in places) / len(places)
        no = _Choice({}, _NONE if likely else 0.5)
        yes = _Choice(axes, cost if likely else cost + 0.75, likely)
        decisions.append([no] if refuted else sorted((yes, no), key=lambda choice: choice.cost))
    return decisions


def _nameless(signature: Signature, states: Mapping[str, int | None]) -> list[list[_Choice]]:
    """For each kind of input: which of its nameless free axes is the rows; inputs alike are decided alike."""
    kinds: dict[tuple[bool, int, tuple[int, ...], int | None], list[Value]] = {}
    for value in signature.inputs:
        free = tuple(axis for axis, size in enumerate(value.shape) if isinstance(size, str) and axis not in value.named)
        if free:
            kinds.setdefault((value.name in states, len(value.shape), free, states.get(value.name)), []).append(value)
    decisions = []
    for (_, _, free, _), values in kinds.items():
        choices = [
            _Choice({value.name: axis for value in values}, cost, cost < _UNLIKELY)
            for axis in free
            for cost in (_axis_cost(values[0], axis, states),)
        ]
        # An input that has named sizes has its rows among these more likely.
        choices.append(_Choice({}, _UNLIKELY if values[0].named else _NONE))
        decisions.append(sorted(choices, key=lambda choice: choice.cost))
    return decisions


def _axis_cost(value: Value, axis: int, states: Mapping[str, int | None]) -> float:
    """How unlikely it is that the axis has the rows: recurrent states of rank 3 have it second, all else first."""
    if value.name in states and len(value.shape) >= 3:
        return (_UNLIKELY, 0.0, *itertools.repeat(2 * _UNLIKELY, len(value.shape)))[axis]
    return axis * _UNLIKELY


def fixed_axes(signature: Signature, states: Mapping[str, int | None]) -> Guess:
    """Where the rows are if a run has just one: an axis of size one at its usual place, or none."""
    axes: dict[str, int | None] = {}
    for value in signature.inputs:
        usual: Sequence[int] = (1, 0) if value.name in states and len(value.shape) >= 3 else (0,)
        single = [axis for axis in usual if axis < len(value.shape) and value.shape[axis] == 1]
        known = states.get(value.name)
        axes[value.name] = known if known is not None else next(iter(single), None)
    return Guess(axes)
