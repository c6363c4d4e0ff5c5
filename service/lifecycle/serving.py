"""The models that are being served, and how versions of them come and go under load.

A version is opened and measured beside what is served. Once it answers, what is asked from then on goes to it, in one
turn of the event loop; the version that it replaces ends with the sessions and requests that it has: no session changes
its model in its middle. What cannot be opened changes nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from export.bundle import BundlePath
from service.errors import ShuttingDown
from service.lifecycle.choosing import Broken, Choice, Chooser, Served
from service.lifecycle.launching import Running, launch, runner_configs
from service.lifecycle.opening import Opener
from service.lifecycle.retirement import retire
from service.lifecycle.states import Key, VersionState
from service.models import Models, Refused
from service.repository import RefusedBundle, ServedModel
from service.settings import Settings

log = logging.getLogger(__name__)

_CHANGES_S: Final = 10.0  # that changes under way get to end when the service closes


class Update(NamedTuple):
    """What has come of looking at a model.

    Args:
        num_new: Versions that were opened.
        refused: Those that could not be.
    """

    num_new: int
    refused: tuple[RefusedBundle, ...]


class Serving:
    """See the module docstring. Everything runs on the event loop.

    Args:
        settings: Of the service.
        on_stopped: Called on a runner thread with the name of a model whose engine a bug has ended.
        on_change: Called after other models are served than before.

    Attributes:
        models: As the calls see them.
    """

    def __init__(
        self, settings: Settings, on_stopped: Callable[[str], None], on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.models = Models()
        self._settings = settings
        self._on_stopped, self._on_change = on_stopped, on_change
        self._served: dict[Key, Served] = {}
        self._retiring: dict[asyncio.Task[None], Running] = {}
        self._loading: set[Key] = set()
        self._broken: dict[Path, Broken] = {}  # by folder
        self._unloaded: set[Key] = set()
        self._turns: dict[str, asyncio.Lock] = {}
        self._opener = Opener(*runner_configs(settings), max_batch_rows=settings.max_batch_rows)
        self._chooser = Chooser(self._opener, self._launch, self._note_loading)
        self._closing = self._stopped = False

    @property
    def failed(self) -> bool:
        """Whether a bug has ended an engine."""
        return self._stopped or any(running.engine.failed for running in self._all())

    def states(self) -> list[VersionState]:
        """How the versions stand that are served, come, go, are broken or were unloaded; by name and version."""
        states = {key: VersionState(*key, "UNAVAILABLE", "unloaded") for key in self._unloaded}
        reasons = {(bundle.name, bundle.version): bundle.reason for bundle, _ in self._broken.values()}
        states |= {key: VersionState(*key, "UNAVAILABLE", reason) for key, reason in reasons.items()}
        ends = "ends with the sessions and requests that it has"
        states |= {running.key: VersionState(*running.key, "UNLOADING", ends) for running in self._retiring.values()}
        states |= {key: VersionState(*key, "LOADING") for key in self._loading}
        # Last: what is being replaced is ready until then, and after an attempt that failed.
        states |= {key: VersionState(*key, "READY", reasons.get(key, "")) for key in self._served}
        return [states[key] for key in sorted(states)]

    async def update(self, name: str, found: Sequence[BundlePath], *, keep_gone: bool, retry: bool) -> Update:
        """Serve those versions of a model that its policy wants. One change of a model at a time.

        Args:
            name: Of the model.
            found: Its versions in the repository, the newest first.
            keep_gone: Whether versions that are served and lie there no more count as if they did.
            retry: Whether to open what could not be opened before and is as it was then.

        Raises:
            ProviderUnavailable: CUDA was insisted on and does not work.
            ShuttingDown: The service has begun to stop. Nothing was changed.
        """
        async with self._turn(name):
            served = self._versions(name)
            candidates = [*found]
            if keep_gone:
                gone = served.keys() - {path.version for path in found}
                candidates += [BundlePath(name, version, self._folder(name, version)) for version in gone]
                candidates.sort(key=lambda path: path.version or float("inf"), reverse=True)
            choice = Choice()
            try:
                policy = self._settings.policy_of(name)
                await self._chooser.choose(choice, candidates, policy, served, {} if retry else self._broken)
                self._check_open()
            except BaseException:
                await asyncio.gather(*(running.close() for running in choice.opened))
                raise
            self._switch(name, choice)
            return Update(len(choice.opened), tuple(bundle for bundle, _ in choice.broken.values()))

    async def withdraw(self, name: str) -> None:
        """Serve a model no more: what runs is finished, what is new finds nothing."""
        async with self._turn(name):
            self._switch(name, Choice())

    def forget_unloaded(self, there: Iterable[Key]) -> None:
        """Tell no more of unloaded versions that lie in the repository no more.

        Args:
            there: Those that do.
        """
        self._unloaded.intersection_update(there)

    async def close(self) -> None:
        """Stop all engines; what has not finished fails with ShuttingDown."""
        self._closing = True
        self._opener.close()
        changing = [asyncio.ensure_future(_ended(turn)) for turn in self._turns.values() if turn.locked()]
        if changing:
            _, late = await asyncio.wait(changing, timeout=_CHANGES_S)
            for waiting in late:
                log.warning("a model that is still being opened after %g s is left behind", _CHANGES_S)
                waiting.cancel()
        for retiring in self._retiring:
            retiring.cancel()
        await asyncio.gather(*(running.close() for running in self._all()))

    def _switch(self, name: str, choice: Choice) -> None:
        """Serve what was chosen and nothing else of a model: one turn of the loop, without a moment of neither."""
        before = {version: served.running for version, served in self._versions(name).items()}
        after = {version: served.running for version, served in choice.served.items()}
        for version in before.keys() - after.keys():
            del self._served[name, version]
        for version, served in choice.served.items():
            self._served[name, version] = served
            self._unloaded.discard((name, version))
        for running in choice.opened:
            self.models.put(running.live)
        for version, running in before.items():
            if after.get(version) is not running:
                if version not in after:
                    self.models.remove(running.live)
                self._retire(running)
        self._broken = {folder: why for folder, why in self._broken.items() if why.bundle.name != name} | choice.broken
        self.models.refused = tuple(
            sorted(Refused(why.name, why.version, why.kind) for why, _ in self._broken.values())
        )
        if before != after:
            self._on_change()

    def _retire(self, running: Running) -> None:
        def successor() -> Running | None:
            newest = max(self._versions(running.manifest.name).items(), default=None)
            return None if newest is None else newest[1].running

        task = asyncio.get_running_loop().create_task(retire(running, self._settings.retire_timeout_s, successor))
        self._retiring[task] = running

        def ended(task: asyncio.Task[None]) -> None:
            del self._retiring[task]
            if running.key not in self._served:
                self._unloaded.add(running.key)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("model %s version %d: ended badly", *running.key, exc_info=error)

        task.add_done_callback(ended)

    def _launch(self, model: ServedModel) -> Running:
        running = launch(model, self._settings, self._engine_stopped, asyncio.get_running_loop())
        _report(model, self._settings)
        return running

    def _engine_stopped(self, name: str) -> None:
        """Take the end of an engine, on its thread; it may be that of one that is not served yet."""
        self._stopped = True
        self._on_stopped(name)

    @contextmanager
    def _note_loading(self, path: BundlePath) -> Iterator[None]:
        self._loading.add((path.name, path.version))
        try:
            yield
        finally:
            self._loading.discard((path.name, path.version))

    def _turn(self, name: str) -> asyncio.Lock:
        return self._turns.setdefault(name, asyncio.Lock())

    def _versions(self, name: str) -> dict[int, Served]:
        return {version: served for (one, version), served in self._served.items() if one == name}

    def _all(self) -> list[Running]:
        return [*(served.running for served in self._served.values()), *self._retiring.values()]

    def _folder(self, name: str, version: int) -> Path:
        return self._settings.repository / name / str(version)

    def _check_open(self) -> None:
        if self._closing:
            raise ShuttingDown("the service is shutting down and loads no model")


async def _ended(turn: asyncio.Lock) -> None:
    """Wait until whoever is changing a model has done."""
    async with turn:
        return


def _report(model: ServedModel, settings: Settings) -> None:
    manifest, runner = model.manifest, model.runner
    log.info(
        "model %s version %d: %s, %s, %s, %d slots of %d state bytes, answers %s the company they are in",
        manifest.name,
        manifest.version,
        manifest.task,
        manifest.precision,
        runner.provider if not model.others else f"{runner.provider} on {len(model.runners)} devices",
        settings.num_slots,
        runner.state_bytes,
        "may depend on" if model.variances else "do not depend on",
    )
    for warning in (*model.warnings, *model.variances):
        log.warning("model %s version %d: %s", manifest.name, manifest.version, warning)
