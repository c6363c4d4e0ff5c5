"""What gRPC logs of callers who leave at the very moment at which their answer goes out.

grpc.aio calls it an error, with a traceback, where the end of a call (cancelled, or past its deadline) is not known yet
when the answer is handed over. Nothing is wrong then, and nobody has to look.
"""

import logging
from typing import Final

log = logging.getLogger(__name__)

_LOGGER: Final = "grpc._cython.cygrpc"
_ERROR: Final = "ExecuteBatchError"  # of an answer, or a status, that could not be handed over


class _Departures(logging.Filter):
    """Keeps such records from the log, and says the same in a line for who asks for it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be logged."""
        kind = record.exc_info[0] if record.exc_info else None
        if kind is None or kind.__name__ != _ERROR:
            return True
        log.info("a caller left before its answer could go out: %s", record.getMessage())
        return False


_FILTER: Final = _Departures()


def expect_departures() -> None:
    """Have gRPC's log take callers who leave for what they are; a second time changes nothing."""
    logging.getLogger(_LOGGER).addFilter(_FILTER)
