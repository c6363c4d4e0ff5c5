"""An asyncio event loop on which gRPC's events arrive by themselves."""

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

import uvloop

from service.rpc.completion import core
from service.rpc.completion.selector import CompletionSelector

log = logging.getLogger(__name__)


class CompletionLoop(asyncio.SelectorEventLoop):
    """See the module docstring.

    Attributes:
        completions: What it waits with.

    Raises:
        OSError: gRPC's queue cannot be waited for here.
    """

    def __init__(self) -> None:
        self.completions = CompletionSelector()
        super().__init__(self.completions)

    def _write_to_self(self) -> None:  # asyncio's name for waking the loop from another thread
        self.completions.wake()


def loop_factory(chosen: Literal["completion", "uvloop"] = "completion") -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the service's event loop: uvloop, whatever is chosen, where gRPC's inside is not as expected."""
    if chosen == "uvloop":
        return uvloop.new_event_loop
    try:
        if not core.MISSING:
            CompletionSelector().close()
            return CompletionLoop
        reason = f"grpcio has no {', '.join(core.MISSING)}"
    except (AttributeError, TypeError, ValueError, OSError) as error:
        reason = str(error)
    log.warning("gRPC's queue cannot be waited for (%s): grpc.aio serves, at a higher cost a message", reason)
    return uvloop.new_event_loop
