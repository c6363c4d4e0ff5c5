"""Whether rows of a batch meet in a graph, as its operators say."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
import onnx

from importing.analysis.following import follow
from importing.analysis.trace import (
    CONSTANT,
    SHARED,
    Coverage,
    Flow,
    Joined,
    Place,
    Trace,
    Unknown,
    inlined,
    run_and_keep,
)
from importing.analysis.walk import Conditions, Original, Step, Walk, stack
from importing.signature import Array

# Two numbers, since what one of them takes for the rows may be another size; primes, which few sizes are multiples of.
_ROWS: Final = (7, 11)
_MOST_CONDITIONS: Final = 12
Meeting = Joined | Unknown  # rows meet, or nobody knows whether they do


def rows_meet(
    original: Original,
    conditions: Iterable[Conditions],
    draw: Callable[[Conditions], Step],
    axes: Mapping[str, int] | None = None,
) -> Meeting | None:
    """Find an operator that joins rows in what the model gives, or that may.

    Args:
        original: The model.
        conditions: Under which it runs; further ones are asked for only where a branch was not seen under those before.
        draw: Gives inputs of a step of one row.
        axes: By own output, which axis has the rows as runs told.

    Returns:
        Which one, and how; None where every row is its own.
    """
    model = inlined(original.model)
    coverage = Coverage({}, set())
    for index, each in enumerate(conditions):
        if index and (coverage.missing() is None or index >= _MOST_CONDITIONS):
            break
        if (found := _meet(original, model, each, lambda each=each: draw(each), coverage, axes or {})) is not None:  # type: ignore[misc]
            return found
    missing = coverage.missing()
    return None if missing is None else Unknown(missing)


def _meet(
    original: Original,
    model: onnx.ModelProto,
    conditions: Conditions,
    draw: Callable[[], Step],
    coverage: Coverage,
    axes: Mapping[str, int],
) -> Meeting | None:
    """The same under one set of conditions."""
    traces = []
    for count in _ROWS:
        feeds = Walk(original, conditions, count).feeds(stack([draw() for _ in range(count)]))
        arrays = run_and_keep(model, feeds)
        if arrays is None:
            return Unknown("values between its operators could not be looked at")
        trace = Trace(arrays, count, model.opset_import, coverage)
        for value in original.signature.inputs:
            axis = conditions.guess.axes[value.name]
            trace.flows[value.name] = None if axis is None else Place(axis)
            trace.levels[value.name] = SHARED if axis is None else CONSTANT
        follow(trace, model.graph.node)
        traces.append(trace)
    expected = {**axes, **{p.output: conditions.guess.axes[p.input] for p in original.pairs}}
    for trace in traces:
        flows = [_expected(trace, value.name, expected.get(value.name)) for value in original.signature.outputs]
        for kind in (Joined, Unknown):
            for flow in flows:
                if isinstance(flow, kind):
                    return flow
    return _overlooked(*traces)


def _expected(trace: Trace, name: str, axis: int | None) -> Flow:
    """Where an output has its rows; where it must have them, on an axis of their own."""
    flow = trace.flow(name)
    if isinstance(flow, Joined | Unknown):
        return flow
    if not isinstance(flow, Place) or flow != Place(flow.axis if axis is None else axis):
        return Unknown(f"output {name} has its rows elsewhere than they were seen")
    return flow


def _overlooked(one: Trace, other: Trace) -> Unknown | None:
    """Something that more rows are said to leave as it is, and that is another in a run of more of them."""
    for name in one.flows.keys() & one.arrays.keys() & other.arrays.keys():
        first, second = one.arrays[name], other.arrays[name]
        place = one.flow(name)
        its = other.flow(name)
        if isinstance(place, Place) and isinstance(its, Place):
            # Unequal where a size that is no row's is a multiple of both numbers.
            same = place == its and _but(first.shape, place.axis) == _but(second.shape, place.axis)
        elif isinstance(place, Place) or isinstance(its, Place):
            same = isinstance(place, Joined | Unknown) or isinstance(its, Joined | Unknown)
        else:
            same = place is not None or its is not None or _same(first, second)
        if not same:
            return Unknown(f"{name} depends on their number in a way that was not followed")
    inner = (_overlooked(trace, other.inner[path]) for path, trace in one.inner.items() if path in other.inner)
    return next((found for found in inner if found is not None), None)


def _but(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))
