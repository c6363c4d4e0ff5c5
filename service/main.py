"""From settings to a running service, and from SIGTERM to exit status 0.

open the repository -> one engine a model -> gRPC -> wait for a signal -> drain -> close

SIGHUP reads the repository again and serves newer versions (see `service.serving`).

A model whose engine dies of a bug ends the process in the same order with exit status 1: health says NOT_SERVING while
the other models finish what they have, and whoever supervises the process starts a sound one.
"""

import asyncio
import gc
import logging
import signal
import sys

import uvloop

from export.bundle import BundleError
from service.repository import Repository, open_repository
from service.rpc.server import RpcServer
from service.runner import RunnerError
from service.serving import Serving, report, runner_config
from service.settings import Settings

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SWITCH_INTERVAL_S = 0.0005  # Python's default of 5 ms is as long as a whole batch
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Prints `serving on <host>:<port>` once it answers; the log goes to stderr.

    Returns:
        Exit status: 0 after an orderly end, 1 where it could not start or a model broke (the log says why).
    """
    logging.basicConfig(stream=sys.stderr, level=settings.log_level.upper(), format=LOG_FORMAT, force=True)
    for number in SIGNALS:  # opening large bundles takes a while, and nothing runs yet that would have to finish
        signal.signal(number, _stop_early)
    try:
        repository = open_repository(settings.repository, runner_config(settings))
        report(repository, settings)
        if repository.models:
            return uvloop.run(_serve(settings, repository))
        log.error("cannot serve: expected at least one model in %s that can be served, got none", settings.repository)
    except (BundleError, RunnerError) as error:
        log.error("cannot serve: %s", error)
    except _StoppedEarly:
        log.info("stopped before it served")
        return 0
    return 1


class _StoppedEarly(BaseException):
    """A signal to stop came before there was a loop to take it; not an Exception, which would refuse a bundle."""


def _stop_early(number: int, frame: object) -> None:
    raise _StoppedEarly


async def _serve(settings: Settings, repository: Repository) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)

    def on_stopped(name: str) -> None:
        """Take the end of an engine, on its thread."""
        log.critical("model %s has stopped: ending, to be started anew", name)
        loop.call_soon_threadsafe(stop.set)

    serving = Serving(settings, repository, on_stopped)
    server = RpcServer(settings, serving.models)
    try:
        port = await server.start()
    except OSError as error:
        log.error("cannot serve: %s", error)
        await serving.close()
        return 1
    # A runner thread gets the interpreter back from the event loop within this time after each run of a graph.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What has been loaded stays: the collector need not look at it again in the middle of a request.
    gc.collect()
    gc.freeze()
    reloads: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    async def reload_and_tell() -> None:
        await serving.reload()
        await server.tell_health()

    def reload() -> None:
        task = loop.create_task(reload_and_tell())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    print(f"serving on {settings.model_copy(update={'port': port}).address}", flush=True)
    await stop.wait()
    for number in SIGNALS:  # a second signal ends the process at once
        loop.remove_signal_handler(number)
    log.info("stopping: %d calls in flight get %g s to finish", server.in_flight, settings.drain_timeout_s)
    if not await server.stop():
        log.warning("calls that were not finished in %g s were ended", settings.drain_timeout_s)
    await serving.close()
    log.info("stopped")
    return int(serving.failed)
