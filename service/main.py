"""From settings to a running service, and from SIGTERM to exit status 0.

look at the addresses -> open the models, one engine each -> gRPC and HTTP -> wait for a signal -> drain -> close

SIGHUP reads the repository again and serves what is new there (see `service.lifecycle.control`).

A model whose engine dies of a bug ends the process in the same order with exit status 1: health says NOT_SERVING while
the other models finish what they have, and whoever supervises the process starts a sound one.
"""

import asyncio
import importlib.metadata
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from export.bundle import BundleError
from service.descriptors import raise_limit
from service.doubts import doubts
from service.http.server import HttpServer
from service.lifecycle.control import Control
from service.lifecycle.serving import Serving
from service.listening import check_address
from service.memory import give_back, use_one_heap
from service.models import Models
from service.oip.control import ModelControl
from service.oip.core import Core
from service.oip.shared_memory import Regions
from service.rpc.completion.loop import loop_factory
from service.rpc.server import RpcServer
from service.runtime.errors import RunnerError
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
    use_one_heap()
    log.info("limits: %d file descriptors", raise_limit())
    for doubt in doubts(settings):
        log.warning("%s", doubt)
    try:
        with asyncio.Runner(loop_factory=loop_factory(settings.event_loop)) as runner:
            return runner.run(_serve(settings))
    except (BundleError, RunnerError, OSError) as error:
        log.error("cannot serve: %s", error)
        return 1


async def _serve(settings: Settings) -> int:
    """Serve.

    Raises:
        BundleError, RunnerError, OSError: It could not start; nothing is left behind.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)

    def on_stopped(name: str) -> None:
        """Take the end of an engine, on its thread."""
        log.critical("model %s has stopped: ending, to be started anew", name)
        loop.call_soon_threadsafe(stop.set)

    check_address(settings.host, settings.port)
    if settings.http:
        check_address(settings.host, settings.http_port)
    doors: list[Doors] = []
    tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    def start(work: Coroutine[Any, Any, None]) -> None:
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def on_change() -> None:
        for door in doors:
            start(door.rpc.tell_health())

    serving = Serving(settings, on_stopped, on_change)
    try:
        control = Control(settings, serving)
        loop.add_signal_handler(signal.SIGHUP, lambda: start(control.reload()))
        if not await _opened(settings, serving, control, stop):
            return int(serving.failed)
        opened = Doors(settings, serving.models, control)
        await opened.open()
        doors.append(opened)
        # A runner thread gets the interpreter back from the event loop within this time after each run of a graph.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        # What opening took goes back, and the collector need not look at what stays in the middle of a request.
        give_back()
        await stop.wait()
        for number in SIGNALS:  # a second signal ends the process at once
            loop.remove_signal_handler(number)
        control.close()
        log.info("stopping: %d calls in flight get %g s to finish", opened.in_flight, settings.drain_timeout_s)
        if not await opened.close():
            log.warning("calls that were not finished in %g s were ended", settings.drain_timeout_s)
    finally:
        await serving.close()
    log.info("stopped")
    return int(serving.failed)


async def _opened(settings: Settings, serving: Serving, control: Control, stop: asyncio.Event) -> bool:
    """Open the models, unless the service is to stop before that is done.

    Returns:
        Whether it was done.

    Raises:
        BundleError: The repository is none, or has no model that can be served although none could come later.
        RunnerError: The provider does not work.
    """
    opening = asyncio.ensure_future(control.start())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        await serving.close()  # waits a little for what is being opened: threads are best not left behind
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        log.info("stopped before it served")
        return False
    stopping.cancel()
    await opening
    if settings.model_control == "fixed" and not serving.models.by_name:
        raise BundleError(f"expected at least one model in {settings.repository} that can be served, got none")
    return True


class Doors:
    """The ways in: gRPC with the typed calls and the Open Inference Protocol, and HTTP with the latter.

    Args:
        settings: Where to listen, and the limits.
        models: What to serve.
        control: Of the repository.

    Attributes:
        rpc: The gRPC server.
    """

    def __init__(self, settings: Settings, models: Models, control: ModelControl) -> None:
        self._settings = settings
        self._core = Core(
            models,
            control,
            version=_version(),
            sequence_idle_timeout_s=settings.sequence_idle_timeout_s,
            shared_memory=settings.shares_memory,
        )
        regions = Regions(settings.shares_memory)
        self.rpc = RpcServer(settings, models, self._core, regions)
        self._http = HttpServer(settings, self._core, regions) if settings.http else None

    @property
    def in_flight(self) -> int:
        """Calls being answered."""
        return self.rpc.in_flight + (0 if self._http is None else self._http.in_flight)

    async def open(self) -> None:
        """Listen, answer, and say where.

        Raises:
            OSError: An address cannot be listened on, or a TLS file cannot be read.
        """
        port = await self.rpc.start()
        try:
            http_port = None if self._http is None else await self._http.start()
        except OSError:
            await self.rpc.stop(linger_s=0)
            raise
        print(f"serving on {self._settings.model_copy(update={'port': port}).address}", flush=True)
        if http_port is not None:
            print(f"serving HTTP on {self._settings.model_copy(update={'port': http_port}).address}", flush=True)

    async def close(self) -> bool:
        """Refuse what is new, finish what runs, and close.

        Returns:
            Whether everything ended within the drain timeout.
        """
        stopping = [self.rpc.stop()] + ([] if self._http is None else [self._http.stop()])
        return all(await asyncio.gather(*stopping))


def _version() -> str:
    try:
        return importlib.metadata.version("carryover")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "0"
