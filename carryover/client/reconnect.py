"""How long and how often a server that is gone is looked for, so that a session outlives an outage of the network.

Pauses double from FIRST_PAUSE_S to MOST_PAUSE_S, each cut by chance to between half and the whole of itself, so that
the clients of a server that comes back do not all come at once.
"""

import random
import time
from collections.abc import Callable
from typing import Final

from carryover.client.errors import ShuttingDown, Unavailable

DEFAULT_RECONNECT_S: Final = 30.0
MAX_RECONNECT_S: Final = 86400.0
LOOK_UP_S: Final = 1.0  # for what is asked without a session: a server that was never there is told of at once
FIRST_PAUSE_S: Final = 0.05
MOST_PAUSE_S: Final = 2.0


def checked_reconnect(reconnect_s: float) -> float:
    """Pass on for how long to reconnect, in seconds; 0 is not at all.

    Raises:
        ValueError: It is not a number from 0 to `MAX_RECONNECT_S`.
    """
    if not 0 <= reconnect_s <= MAX_RECONNECT_S:
        raise ValueError(f"reconnect_s: expected 0 to {MAX_RECONNECT_S:g} seconds, got {reconnect_s!r}")
    return reconnect_s


class Reconnect:
    """The tries of one command.

    Args:
        for_s: For how long after the first loss to try, in seconds; 0: not at all.
        deadline_s: When the command must have been answered, on `clock`; no try begins after it.
        clock: Seconds.
        chance: A number between two.
    """

    def __init__(
        self,
        for_s: float,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._for_s, self._deadline_s, self._clock, self._chance = for_s, deadline_s, clock, chance
        self._lost_at_s: float | None = None
        self._num_tries = 0

    def pause_s(self, loss: Exception) -> float:
        """How long to wait before the next try, in seconds.

        Raises:
            Exception: `loss`, where it is not one of the connection or nothing may be tried.
            Unavailable: Trying has come to its end; says how often and for how long.
        """
        if not self._for_s or not isinstance(loss, Unavailable) or isinstance(loss, ShuttingDown):
            raise loss
        now_s = self._clock()
        if self._lost_at_s is None:
            self._lost_at_s = now_s
        longest_s = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._num_tries, 10))
        pause_s = self._chance(longest_s / 2, longest_s)
        gone_s = now_s - self._lost_at_s
        if gone_s + pause_s > self._for_s or now_s + pause_s > self._deadline_s:
            raise self._given_up(loss, gone_s)
        self._num_tries += 1
        return pause_s

    def _given_up(self, loss: Unavailable, gone_s: float) -> Unavailable:
        tries = "once" if self._num_tries == 1 else f"{self._num_tries} times"
        facts = {"reconnect_tries": str(self._num_tries), "reconnect_s": f"{self._for_s:g}", "gone_s": f"{gone_s:.3f}"}
        return type(loss)(
            f"session: expected a connection again within {self._for_s:g} s and the command's own time, "
            f"got none, tried {tries} in {gone_s:.1f} s: {loss.message}",
            loss.code,
            loss.reason,
            {**loss.metadata, **facts},
            loss.violations,
            loss.retry_after_s,
        )
