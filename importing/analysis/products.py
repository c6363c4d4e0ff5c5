"""What sums of products do with rows: products of matrices, convolutions, and pooling, which is like them."""

from importing.analysis.look import Flows, Look, NotFollowed, moved
from importing.analysis.trace import UNKNOWN, Flow, Place


def multiply(look: Look) -> Flow:
    """Products of matrices; the last axis of the first meets the last but one of the second."""
    ranks = [len(look.shape(0)), len(look.shape(1))]
    if set(look.rows) - {0, 1} or min(ranks) < 1 or (ranks[0] == 1 and 1 in look.rows):
        raise NotFollowed
    met = (ranks[0] - 1, max(ranks[1] - 2, 0))
    if any(place.axis == met[index] for index, place in look.rows.items()):
        return look.joined("sums over the rows")
    found = {moved(place, max(ranks) - ranks[index] + place.axis) for index, place in look.rows.items()}
    if len({place.axis for place in found}) > 1:
        return look.joined("sets rows against each other")
    return found.pop() if len(found) == 1 and len(look.out_shape()) >= max(ranks) - (ranks[1] == 1) else UNKNOWN


def general_multiply(look: Look) -> Flow:
    """Gemm: a product and what is added to it."""
    found = set()
    for index, place in look.rows.items():
        axis = place.axis
        if index == 2:
            axis += 2 - len(look.shape(2))
        else:
            axis = 1 - axis if look.attribute(("transA", "transB")[index], 0) else axis
            if axis == 1 - index:
                return look.joined("sums over the rows")
        found.add(moved(place, axis))
    if len({place.axis for place in found}) > 1:
        return look.joined("sets rows against each other")
    return found.pop() if len(found) == 1 else UNKNOWN


def quantized_multiply(look: Look) -> Flow:
    """A product of what is quantised, with one scale for all."""
    place = look.only()
    rank = len(look.shape(0))
    if place.axis == rank - 1:
        return look.joined("sums over the rows")
    return moved(place, len(look.out_shape()) - rank + place.axis) if len(look.shape(3)) > 1 else UNKNOWN


def convolve(look: Look) -> Flow:
    """Sums over channels and neighbours."""
    place = look.only()
    if place.axis == 1:
        return look.joined("sums over the rows") if look.attribute("group", 1) == 1 else UNKNOWN
    return pool(look)


def quantized_convolve(look: Look) -> Flow:
    """The same of what is quantised."""
    return look.only() if look.only().axis == 0 else UNKNOWN


def pool(look: Look) -> Flow:
    """Computes over neighbours."""
    place = look.only()
    if place.axis < 2:
        return place
    kernel = look.attribute("kernel_shape") or (look.shape(1)[2:] if len(look.node.input) > 1 else ())
    wide = not kernel or kernel[place.axis - 2] > 1
    return look.joined("computes over the rows") if wide else UNKNOWN


def pool_with_places(look: Look) -> Flows:
    """The same; where the largest was is counted over all rows."""
    flow = pool(look)
    beside = look.joined("counts places over all rows") if isinstance(flow, Place) else flow
    return [flow, beside][: len(look.node.output)]


def einsum(look: Look) -> Flow:
    """Sums of products, written in letters."""
    equation = bytes(look.attribute("equation", b"")).decode().replace(" ", "")
    given, arrow, result = equation.partition("->")
    if not arrow or "." in equation:
        return UNKNOWN
    letters = {given.split(",")[index][place.axis] for index, place in look.rows.items()}
    if any(place.outer > 1 or place.inner > 1 for place in look.rows.values()):
        return UNKNOWN
    if len(letters) > 1:
        return look.joined("sets rows against each other")
    letter = letters.pop()
    return Place(result.index(letter)) if letter in result else look.joined("sums over the rows")
