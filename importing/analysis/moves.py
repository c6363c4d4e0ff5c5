"""What operators that move elements about do with rows: cut, join, look up, repeat and lay out anew.

The number of rows may be part of what such an operator is told of sizes. It leaves the rows alone only if that holds
for any number of them, not just for as many as a run had: a cut that ends at 8 takes all of 7.
"""

from typing import Any, Final

from importing.analysis.counts import ROWS, Count, NotCounted, is_equal, is_less, times_rows
from importing.analysis.look import Look, NotFollowed, moved
from importing.analysis.trace import UNKNOWN, Flow, Place
from importing.signature import Array

_ALL: Final = 2**31 - 1  # an end from there on is that of whatever is cut


def reshape(look: Look) -> Flow:
    """The order of the elements stays."""
    if look.is_counted(1) and not look.rows:
        return look.joined("makes as many as there are rows")
    place = look.only()
    told = look.numbers("axes", 1) if look.node.op_type == "Squeeze" else None
    if look.node.op_type == "Squeeze" and told is None and look.shape(0)[place.axis] == look.trace.num_rows:
        return look.joined("leaves the axis of the rows out where there is one")
    if look.given(1):
        look.counts(1)  # must not be what values say that rows share
    found = look.trace.place(look.node.output[0], look.trace.before(look.node.input[0], place))
    return look.joined("mixes rows") if found is UNKNOWN else found


def transpose(look: Look) -> Flow:
    """Axes change places."""
    place, rank = look.only(), len(look.shape(0))
    order = list(look.attribute("perm", range(rank - 1, -1, -1)))
    return moved(place, order.index(place.axis))


def expand(look: Look) -> Flow:
    """Repeats along axes of size one; the last axes are aligned."""
    rank = len(look.out_shape())
    if not look.is_counted(1):
        place = look.only()
        return moved(place, rank - len(look.shape(0)) + place.axis)
    counted = {rank - len(look.counts(1)) + axis for axis in _counted(look.counts(1))}
    if not look.rows:
        return _made(look, look.counts(1), rank)
    place = look.only()
    axis = rank - len(look.shape(0)) + place.axis
    return look.joined("makes as many as there are rows") if counted - {axis} else moved(place, axis)


def fill(look: Look) -> Flow:
    """The same value everywhere."""
    if look.rows:
        raise NotFollowed
    return _made(look, look.counts(0), len(look.out_shape()))


def tile(look: Look) -> Flow:
    """All of it again, so many times an axis."""
    repeats = look.counts(1)
    if look.rows:
        place = look.only()
        if any(axis != place.axis for axis in _counted(repeats)):
            return look.joined("makes as many as there are rows")
        return place if _is_one(repeats[place.axis]) else look.joined("repeats the rows")
    sizes = repeats.copy()
    for axis, size in enumerate(look.shape(0)):
        sizes[axis] = repeats[axis] * size
    return _made(look, sizes, len(sizes))


def count_up(look: Look) -> Flow:
    """Numbers of which there are as many as rows."""
    return look.joined("counts the rows")


def resize(look: Look) -> Flow:
    """Interpolates along axes; those of the rows must stay as they are."""
    place, rank = look.only(), len(look.shape(0))
    axes = [int(axis) % rank for axis in look.attribute("axes", range(rank))]
    told = look.attribute("scales")
    if told is None:
        told = look.counts(next(index for index in (3, 2, 1) if look.given(index)))
    if any(axes[index] != place.axis for index in _counted(told)):
        return look.joined("makes as many as there are rows")
    if place.axis not in axes:
        return place
    size = told[axes.index(place.axis)]
    kept = _is_all(size, place) if look.given(3) else _is_one(size)
    return place if kept else look.joined("computes over the rows")


def gather(look: Look) -> Flow:
    """Looks up."""
    rank, picked = len(look.shape(0)), len(look.shape(1))
    axis, rows = look.axis(0, rank), look.rows
    if len(rows) > 1:
        return look.joined("looks rows up in rows")
    if 1 in rows:
        return moved(rows[1], axis + rows[1].axis)
    place = rows[0]
    if place.axis != axis:
        return place if place.axis < axis else moved(place, place.axis + picked - 1)
    return look.joined("takes some rows for all")


def gather_elements(look: Look) -> Flow:
    """Looks up along an axis, each element on its own; there are as many as indices."""
    rows, axis = look.rows, look.axis(0, len(look.shape(0)))
    if (place := rows.get(0)) is not None and place.axis == axis:
        return look.joined("looks rows up in rows")
    return rows[1] if 1 in rows and (0 not in rows or rows[0] == rows[1]) else UNKNOWN


def gather_nd(look: Look) -> Flow:
    """Looks up by several axes at once; the first ones may be gone through side by side."""
    rows, beside = look.rows, int(look.attribute("batch_dims", 0))
    picked, depth = len(look.shape(1)) - 1, look.shape(1)[-1]
    if 1 in rows and rows[1].axis == picked:
        raise NotFollowed
    if 0 not in rows:
        return rows[1]
    place = rows[0]
    if place.axis < beside:
        return place if rows.get(1) == place else UNKNOWN
    if 1 in rows or place.axis < beside + depth:
        return look.joined("looks rows up in rows" if 1 in rows else "takes some rows for all")
    return moved(place, picked + place.axis - beside - depth)


def scatter_elements(look: Look) -> Flow:
    """Writes along an axis, each element on its own."""
    rows, axis = look.rows, look.axis(0, len(look.shape(0)))
    if any(place.axis == axis for place in rows.values()):
        return look.joined("writes rows into rows")
    return rows[0] if len(rows) == 3 and len(set(rows.values())) == 1 else UNKNOWN


def scatter_nd(look: Look) -> Flow:
    """Writes by several axes at once."""
    rows, picked, depth = look.rows, len(look.shape(1)) - 1, look.shape(1)[-1]
    if 0 not in rows or 1 in rows or rows[0].axis < depth:
        return look.joined("writes rows into what all have")
    place = rows[0]
    return place if rows.get(2) == moved(place, picked + place.axis - depth) else UNKNOWN


def cut(look: Look) -> Flow:
    """A part of it, or steps through it."""
    if 0 not in look.rows:
        return look.joined("takes as many as there are rows") if not look.rows else UNKNOWN
    place, rank = look.only(), len(look.shape(0))
    starts, ends = (_bounds(look, name, index) for name, index in (("starts", 1), ("ends", 2)))
    axes = look.numbers("axes", 3) or list(range(len(starts)))
    axes = [axis % rank for axis in axes]
    for axis, start, end in zip(axes, starts, ends, strict=True):
        if axis != place.axis and (isinstance(start, Count) or isinstance(end, Count)):
            return look.joined("takes as many as there are rows")
    if place.axis not in axes:
        return place
    at = axes.index(place.axis)
    steps = look.numbers("steps", 4) or [1] * len(axes)
    if isinstance(starts[at], _Any) or isinstance(ends[at], _Any):
        raise NotFollowed
    if steps[at] == 1 and _is_start(starts[at]) and _is_end(ends[at], place):
        return place
    return look.joined("takes some rows for all") if place.outer == place.inner == 1 else UNKNOWN


def split(look: Look) -> Flow:
    """Parts of it."""
    place = look.only()
    if place.axis != look.axis(0, len(look.shape(0))) or len(look.node.output) == 1:
        return place
    return look.joined("takes rows apart") if place == Place(place.axis) else UNKNOWN


def concat(look: Look) -> Flow:
    """One after the other."""
    rows = look.rows
    places = set(rows.values())
    if len({place.axis for place in places}) > 1:
        return look.joined("sets rows against each other")
    place = next(iter(places))
    if place.axis != look.axis(0, len(look.out_shape())):
        return place if len(places) == 1 else UNKNOWN
    if len(rows) < len(look.node.input):
        return look.joined("sets others beside the rows")
    if len({each.inner for each in places}) > 1:
        return UNKNOWN
    return Place(place.axis, sum(each.outer for each in rows.values()), place.inner)


def pad(look: Look) -> Flow:
    """Adds at both ends, or takes away."""
    place, rank = look.only(), len(look.shape(0))
    pads = look.numbers("pads", 1)
    if pads is None:
        raise NotFollowed
    axes = [axis % rank for axis in look.numbers("axes", 3) or range(rank)]
    half = len(pads) // 2
    shifted = {axis for i, axis in enumerate(axes) if i < half and (pads[i] or pads[i + half])}
    return look.joined("shifts the rows") if place.axis in shifted else place


def blocks(look: Look) -> Flow:
    """Between channels and what lies in space."""
    return look.only() if look.only().axis == 0 else UNKNOWN


def triangle(look: Look) -> Flow:
    """Half of each matrix of the last two axes."""
    place = look.only()
    inside = place.axis >= len(look.shape(0)) - 2
    return look.joined("leaves out by the place of a row") if inside else place


def diagonal(look: Look) -> Flow:
    """Ones by place, as many as there are rows."""
    return look.joined("makes a number of each row's place")


def reverse(look: Look) -> Flow:
    """Turns the first elements of each row around, along the time."""
    rows, batch, time = look.rows, int(look.attribute("batch_axis", 1)), int(look.attribute("time_axis", 0))
    place = rows.get(0)
    if place is not None and place.axis == time:
        return look.joined("turns the rows around")
    if place is not None and place.axis == batch:
        return place if rows.get(1) == moved(place, 0) else UNKNOWN
    return place if list(rows) == [0] and place is not None else UNKNOWN


class _Any:
    """A bound that values say which all rows share."""


def _bounds(look: Look, name: str, index: int) -> list[Any]:
    """Where cuts begin or end."""
    if (given := look.attribute(name)) is not None:
        return list(given)
    try:
        return list(look.counts(index).ravel())
    except NotFollowed:
        return [_Any()] * look.shape(index)[0]


def _is_start(start: Any) -> bool:
    return not isinstance(start, Count) and (start == 0 or start <= -_ALL)


def _is_end(end: Any, place: Place) -> bool:
    if not isinstance(end, Count):
        return bool(end >= _ALL)
    try:
        return not is_less(end, ROWS * (place.outer * place.inner))
    except NotCounted:
        return False


def _is_all(size: Any, place: Place) -> bool:
    try:
        return is_equal(size, ROWS * (place.outer * place.inner))
    except NotCounted:
        return False


def _is_one(size: Any) -> bool:
    return not isinstance(size, Count) and size == 1


def _counted(sizes: Array) -> list[int]:
    """Axes whose size depends on the number of rows."""
    return [axis for axis, size in enumerate(sizes) if isinstance(size, Count)]


def _made(look: Look, sizes: Array, rank: int) -> Flow:
    """Rows that are all alike, on the one axis of which there is as much as there are rows."""
    counted = _counted(sizes)
    try:
        (axis,) = counted
        return Place(rank - len(sizes) + axis, 1, times_rows(sizes[axis]))
    except (NotCounted, ValueError):
        return look.joined("makes as many as there are rows")
