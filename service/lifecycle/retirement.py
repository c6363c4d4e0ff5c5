"""How a version that is served no more comes to its end: with the last of what it has, or when its time is up."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from service.lifecycle.handover import Handover, may_carry
from service.lifecycle.launching import Running

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.25  # between looks at whether it is still in use
_LAST_S: Final = 10.0  # for what its sessions had asked for when they were ended


Successor = Callable[[], Running | None]


async def retire(running: Running, timeout_s: float, successor: Successor = lambda: None) -> None:
    """Wait until nobody uses a version that nothing new is sent to, and close it.

    Args:
        running: Which.
        successor: Tells what has taken its place by now, if anything: gets the sessions too where that may be.
        timeout_s: Seconds after which its sessions are ended; what they have asked for by then is still answered.
    """
    loop = asyncio.get_running_loop()
    name, version = running.manifest.name, running.manifest.version
    log.info("model %s version %d: ends with the sessions and requests that it has", name, version)
    until_s = loop.time() + timeout_s
    ended = False
    to: Running | None = None
    handover: Handover | None = None
    while True:
        if (newest := successor()) is not to:  # the one before may be on its way out itself
            to = newest
            carries = to is not None and may_carry(running.manifest, to.manifest)
            handover = Handover(running.live, to.live) if to is not None and carries else None
        if handover is not None and not ended and (num_moved := await handover.round()):
            log.info("model %s version %d: %d sessions go on with the newer one", name, version, num_moved)
        await asyncio.sleep(_LOOK_S)  # at first for whoever has found the model and not submitted yet
        if running.engine.failed or not running.busy:
            break
        if loop.time() < until_s:
            continue
        if ended:
            log.warning("model %s version %d: what it still had is ended with it", name, version)
            break
        num_sessions = running.live.bridge.end_sessions()
        log.warning("model %s version %d: %d sessions are ended after %g s", name, version, num_sessions, timeout_s)
        ended = True
        until_s = loop.time() + _LAST_S
    await running.close()
    log.info("model %s version %d: ended", name, version)
