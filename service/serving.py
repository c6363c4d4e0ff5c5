"""The models that are being served, each with its engine, and how a newer version takes the place of an older one.

A reload reads the repository again. A model with a newer version is opened beside the old one; what is asked from then
on goes to the new one, and the old one is closed when the sessions and requests that it has are over: no session
changes its model in its middle.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from service.bridge import Bridge
from service.decoding.viterbi import viterbi
from service.engine.engine import Engine
from service.engine.interface import Publish
from service.engine.limits import EngineLimits
from service.engine.schedule import ScheduleLimits
from service.models import Limits, LiveModel, Models, Refused
from service.repository import Repository, ServedModel, open_repository
from service.runner import CPU, Runner, RunnerConfig
from service.settings import Settings

log = logging.getLogger(__name__)

_LOOK_S = 0.5  # between looks at whether an old version is still in use


def runner_config(settings: Settings) -> RunnerConfig:
    """How the settings want graphs to be run."""
    return RunnerConfig(settings.provider, settings.threads, settings.num_slots, settings.num_memory_rows)


def default_runners(provider: str) -> int:
    """Runs side by side where the settings leave it open: one a core that this process may use, one on a GPU."""
    return len(os.sched_getaffinity(0)) if provider == CPU else 1


class Serving:
    """See the module docstring. Everything runs on the event loop.

    Args:
        settings: Of the service.
        repository: What was opened at start.
        on_stopped: Called on a runner thread with the name of a model whose engine a bug has ended.

    Attributes:
        models: As the calls see them.
        failed: Whether a bug has ended an engine.
    """

    def __init__(self, settings: Settings, repository: Repository, on_stopped: Callable[[str], None]) -> None:
        self._settings = settings
        self._on_stopped = on_stopped
        self._loop = asyncio.get_running_loop()
        self._engines: dict[str, Engine] = {}
        self._runners: dict[Engine, Runner] = {}  # of each engine; closed after it, whoever remembers the model
        self._old: list[Engine] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        live = [self._start(model) for model in repository.models.values()]
        self.models = Models(live, _refused(repository))

    @property
    def failed(self) -> bool:
        """Whether a bug has ended an engine."""
        return any(engine.failed for engine in (*self._engines.values(), *self._old))

    async def reload(self) -> None:
        """Read the repository again: start newer versions, and retire those that they replace.

        A model whose folder is gone, or whose newest version cannot be opened, is served as before. Whatever goes wrong
        is logged and changes nothing.
        """
        async with self._reloading:
            served = {name: model.manifest.version for name, model in self.models.by_name.items()}
            config = runner_config(self._settings)
            try:
                found = await asyncio.to_thread(open_repository, self._settings.repository, config, served)
            except Exception as error:
                log.error("could not reload %s: %s", self._settings.repository, error)
                return
            report(found, self._settings)
            for name, model in found.models.items():
                old, live = self._engines.get(name), self.models.by_name.get(name)
                self.models.put(self._start(model))
                if old is not None and live is not None:
                    self._old.append(old)
                    task = self._loop.create_task(self._retire(live, old))
                    self._retiring.add(task)
                    task.add_done_callback(self._retiring.discard)
            self.models.refused = tuple(_refused(found))
            log.info("reloaded: %d models are new", len(found.models))

    async def close(self) -> None:
        """Stop all engines; what has not finished fails with ShuttingDown."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*map(self._close, (*self._engines.values(), *self._old)))

    async def _close(self, engine: Engine) -> None:
        await asyncio.to_thread(engine.close)
        if runner := self._runners.pop(engine, None):
            runner.close()
            await asyncio.to_thread(_give_memory_back)

    async def _retire(self, live: LiveModel, engine: Engine) -> None:
        name, version = live.manifest.name, live.manifest.version
        log.info("model %s version %d: ends with the sessions and requests that it has", name, version)
        while not engine.failed:
            stats = engine.stats()
            # What has just been submitted shows at the bridge before it shows in the engine's counts.
            if stats.sessions + stats.waiting + stats.running + live.bridge.unanswered == 0:
                break
            await asyncio.sleep(_LOOK_S)
        await self._close(engine)
        self._old.remove(engine)
        log.info("model %s version %d: ended", name, version)

    def _start(self, model: ServedModel) -> LiveModel:
        """Start a model's engine and connect it to the loop."""
        settings, manifest, runner = self._settings, model.manifest, model.runner
        max_sessions = settings.session_limit(runner.state_bytes)
        batch = _batch_limits(model, settings)
        limits = EngineLimits(
            session_slots=settings.session_slots,
            max_sessions=max_sessions,
            max_host_bytes=settings.max_host_state_bytes,
            max_marks=settings.max_marks,
            kept_answers=settings.kept_answers,
            max_waiting=settings.max_waiting,
            max_queue_delay_s=settings.max_queue_delay_ms / 1000,
            fill_delay_s=settings.fill_delay_ms / 1000,
            batching=settings.batching,
            batch=batch,
        )
        num_runners = settings.runners or default_runners(runner.provider)
        if num_runners > 1 and runner.provider != CPU:
            # Rows of a pool on a device are read and written by way of the whole pool: no two at a time.
            log.warning("model %s: runs one at a time on %s, not %d", manifest.name, runner.provider, num_runners)
            num_runners = 1

        def connect(publish: Publish) -> Engine:
            on_stopped = partial(self._on_stopped, manifest.name)
            engine = Engine(runner, limits, publish, on_stopped, num_runners=num_runners)
            engine.start()
            self._engines[manifest.name] = engine
            self._runners[engine] = runner
            return engine

        crf = model.crf
        return LiveModel(
            manifest=manifest,
            tokenizers=model.tokenizers,
            bridge=Bridge(connect, self._loop),
            limits=Limits.of(manifest, settings, max_sessions),
            provider=runner.provider,
            state_bytes=runner.state_bytes,
            warnings=runner.warnings,
            decode_tags=None
            if crf is None
            else partial(viterbi, start=crf.start, end=crf.end, transitions=crf.transitions),
            batch_invariant=not model.variances,
            max_batch_rows=batch.max_rows,
        )


def _give_memory_back() -> None:
    """Return to the system what a version that ended took: by itself the allocator keeps some of it for each."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)


def _batch_limits(model: ServedModel, settings: Settings) -> ScheduleLimits:
    """What was measured of a model, unless the settings say otherwise."""
    limits = model.profile.limits(ScheduleLimits())
    if rows := settings.max_batch_rows:
        tokens = max(limits.max_chunk, 2 * rows)
        limits = replace(limits, max_rows=rows, max_sequences=rows, max_chunk_tokens=tokens)
    if settings.max_batch_tokens:
        limits = replace(limits, max_padded_tokens=settings.max_batch_tokens)
    if settings.max_chunk:
        limits = replace(limits, max_chunk=min(settings.max_chunk, limits.max_chunk))
    return limits


def report(repository: Repository, settings: Settings) -> None:
    """Log one line a model and one a refused bundle."""
    for model in repository.models.values():
        manifest, runner = model.manifest, model.runner
        log.info(
            "model %s version %d: %s, %s, %s, %d slots of %d state bytes, answers %s the company they are in",
            manifest.name,
            manifest.version,
            manifest.task,
            manifest.precision,
            runner.provider,
            settings.num_slots,
            runner.state_bytes,
            "may depend on" if model.variances else "do not depend on",
        )
        for warning in (*runner.warnings, *model.variances):
            log.warning("model %s version %d: %s", manifest.name, manifest.version, warning)
    for bundle in repository.refused:
        log.warning("refused %s version %d: %s", bundle.name, bundle.version, bundle.reason)


def _refused(repository: Repository) -> list[Refused]:
    """What callers are told of refused bundles, and nothing of this machine: the whole reason is for the log."""
    return [Refused(bundle.name, bundle.version, bundle.kind) for bundle in repository.refused]
