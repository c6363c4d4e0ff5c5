"""Reading the repository off the event loop: one bundle is opened at a time, and at the end none is waited for long.

A thread that reads a disk that hangs cannot be stopped. It is a daemon, so that it does not keep the process alive.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from export.bundle import BundlePath
from service.devices.closing import close_runner
from service.errors import ShuttingDown
from service.repository import RefusedBundle, ServedModel, open_bundle
from service.runtime.runner import Runner, RunnerConfig

T = TypeVar("T")


async def off_loop(call: Callable[[], T], drop: Callable[[T], None] = lambda _: None) -> T:
    """Call something that may take long on a thread of its own.

    Args:
        call: What to call.
        drop: Takes what it gave, on one more thread, if nobody waits for it any more.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if error is not None:
            if not future.done():
                future.set_exception(error)
        elif future.done():
            _start(lambda: drop(result))  # type: ignore[arg-type]  # without an error there is a result
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failure = None, None
        try:
            result = call()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(settle, result, failure)

    _start(work)
    return await future


def _start(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="repository", daemon=True).start()


class Opener:
    """Opens bundles.

    Args:
        configs: How graphs are to be run: on each device that is used.
        max_batch_rows: Rows of a run that the settings allow; 0: any.
    """

    def __init__(self, *configs: RunnerConfig, max_batch_rows: int = 0) -> None:
        self._config, *others = configs
        self._max_batch_rows = max_batch_rows
        self._others = tuple(others)
        self._turn = asyncio.Lock()  # what a model costs is measured when it is opened: not two at a time
        self._measured: Runner | None = None
        self._closed = False

    async def open(self, path: BundlePath) -> ServedModel | RefusedBundle:
        """Open one version of a model; see `open_bundle`.

        Raises:
            ProviderUnavailable: CUDA was insisted on and does not work.
            ShuttingDown: The service has begun to stop.
        """
        async with self._turn:
            self._check_open()
            opened = await off_loop(
                lambda: open_bundle(path, self._config, self._begin, self._others, self._max_batch_rows), _let_go
            )
            self._measured = None
            if self._closed:
                await off_loop(lambda: _let_go(opened))
            self._check_open()
            return opened

    def close(self) -> None:
        """Open nothing more, and end what is being measured, soon: a GPU may be somebody else's for a while."""
        self._closed = True
        if (runner := self._measured) is not None:
            _start(lambda: close_runner(runner))

    def _check_open(self) -> None:
        if self._closed:
            raise ShuttingDown("the service is shutting down and opens no model")

    def _begin(self, runner: Runner) -> None:
        """Take note of what is about to be measured; on the thread. Either this or `close` sees the other."""
        self._measured = runner
        if self._closed:
            close_runner(runner)


def _let_go(opened: ServedModel | RefusedBundle) -> None:
    if isinstance(opened, ServedModel):
        opened.close()
