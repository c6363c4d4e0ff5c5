"""What is needed of the engines behind the door, and how they are closed: side by side, and not waited for for ever."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from service.engine.interface import EngineDoor, Publish

log = logging.getLogger(__name__)

CLOSE_S: Final = 60.0  # that engines may take; they bound themselves to half of it, unless something hangs


class DeviceEngine(EngineDoor, Protocol):
    """What is needed of an engine besides its door; `service.engine.engine.Engine` is one."""

    failed: bool

    def start(self) -> None:
        """Begin to serve."""

    def close(self) -> None:
        """Stop; what has not finished fails with ShuttingDown."""


Make = Callable[[Publish, Callable[[], None]], DeviceEngine]


def close_all(engines: Sequence[DeviceEngine]) -> None:
    """Close the engines of all devices; those that take longer than CLOSE_S are left behind, and logged."""
    threads = [threading.Thread(target=engine.close, daemon=True) for engine in engines]
    for thread in threads:
        thread.start()
    until = time.monotonic() + CLOSE_S
    for number, thread in enumerate(threads):
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            log.error("engine %d of %d: expected it to close within %g s, left behind", number, len(engines), CLOSE_S)
