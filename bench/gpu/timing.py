"""How long one run takes: a few that do not count, then as many as fit into the time."""

import time
from collections.abc import Callable
from typing import Final

_FIRST: Final = 4  # runs that do not count: they allocate, choose kernels, capture
_FEWEST: Final = 3


def seconds_each(run: Callable[[], object], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a run, on average.

    Args:
        run: Ends only when what it has started on a device has ended.
        seconds: For how long it is repeated; at least a few times.
        clock: What time is, in seconds.
    """
    for _ in range(_FIRST):
        run()
    count, began = 0, clock()
    while count < _FEWEST or clock() - began < seconds:
        run()
        count += 1
    return (clock() - began) / count
