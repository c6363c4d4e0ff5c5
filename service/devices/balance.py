"""How even the sessions of a model lie on its devices, and who gives whom one: pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Evenness:
    """When it is worth moving sessions: a step of a few rows more takes as long, and a move costs two copies.

    Args:
        least: Sessions that one device may have more than another, however few there are.
        share: The same, as a share of what a device has on average.
    """

    least: int = 16
    share: float = 0.25


class Shift(NamedTuple):
    """One session is to go from one device to another."""

    source: int
    to: int


def is_uneven(counts: Sequence[int], evenness: Evenness) -> bool:
    """Whether sessions are to be moved.

    Args:
        counts: Sessions of each device.
        evenness: What is left as it is.
    """
    if len(counts) < 2:
        return False
    return max(counts) - min(counts) > max(evenness.least, evenness.share * sum(counts) / len(counts))


def shifts(counts: Sequence[int], most: int) -> list[Shift]:
    """Who gives whom a session until no device has two more than another: each from the fullest to the emptiest.

    Args:
        counts: Sessions of each device.
        most: Shifts to plan, at most.
    """
    left = list(counts)
    planned: list[Shift] = []
    while len(planned) < most:
        source, to = left.index(max(left)), left.index(min(left))
        if left[source] - left[to] < 2:
            break
        left[source] -= 1
        left[to] += 1
        planned.append(Shift(source, to))
    return planned
