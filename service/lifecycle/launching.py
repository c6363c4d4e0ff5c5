"""From an opened bundle to a model that answers: its engine, its limits, its way to the event loop."""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from export.manifest import Manifest
from service.bridge import Bridge
from service.decoding.viterbi import viterbi
from service.devices.closing import close_runner
from service.devices.door import Devices
from service.engine.engine import Engine
from service.engine.interface import Publish
from service.engine.limits import EngineLimits
from service.engine.schedule import ScheduleLimits
from service.lifecycle.opening import off_loop
from service.lifecycle.states import Key
from service.lifecycle.warming import WarmUp
from service.memory import give_back
from service.models import Limits, LiveModel
from service.repository import ServedModel
from service.runtime.providers import CPU
from service.runtime.runner import Runner, RunnerConfig
from service.settings import CPU_DEVICE, Settings

log = logging.getLogger(__name__)
_WARM_S: Final = 60.0  # that engines may take to get ready; it then goes on beside the first requests


def runner_config(settings: Settings) -> RunnerConfig:
    """How the settings want graphs to be run."""
    return RunnerConfig(
        provider=settings.provider,
        threads=settings.threads,
        num_slots=settings.num_slots,
        num_memory_rows=settings.num_memory_rows,
        tf32=settings.tf32,
        cuda_graphs=settings.cuda_graphs,
    )


def runner_configs(settings: Settings) -> list[RunnerConfig]:
    """The same on each device that the settings name, the first one first."""
    config = runner_config(settings)
    if not settings.devices:
        return [config]
    if CPU_DEVICE in settings.devices:
        return [replace(config, provider="cpu")] * len(settings.devices)
    return [replace(config, device_id=int(number)) for number in settings.devices]


def default_runners(provider: str, num_devices: int = 1) -> int:
    """Runs side by side on each device where the settings leave it open.

    One on a GPU; on the CPU one a core that this process may use, shared by all that pass for devices.
    """
    return max(1, len(os.sched_getaffinity(0)) // num_devices) if provider == CPU else 1


def runners_of(runners: Sequence[Runner], settings: Settings) -> int:
    """Runs of a model side by side on each of its devices.

    Args:
        runners: One a device.
        settings: Of the service.
    """
    first = runners[0]
    count = settings.runners or default_runners(first.provider, len(runners))
    if count > 1 and first.provider != CPU and any(map(_replays, runners)):
        # ONNX Runtime replays CUDA graphs from one thread at a time.
        reason = "its steps are captured as CUDA graphs"
        log.warning("model %s: runs one at a time, not %d: %s", first.manifest.name, count, reason)
        return 1
    return count


def _replays(runner: Runner) -> bool:
    """Whether some runs are, or will be, replayed as CUDA graphs."""
    return not runner.uncaptured or any(runner.captured.values())


@dataclass(frozen=True, eq=False)
class Running:
    """One version of a model that answers.

    Args:
        live: As the calls see it.
        engine: That of its bridge, or several behind one door.
        runners: Those of its engines, one a device; closed after them, whoever remembers the model.
        bundle: The manifest as it lies in the repository.
        warm_ups: What its engines do before they serve.
    """

    live: LiveModel
    engine: Engine | Devices
    runners: tuple[Runner, ...]
    bundle: Manifest
    warm_ups: tuple[WarmUp, ...] = ()

    @property
    def manifest(self) -> Manifest:
        """Of its bundle, as it is run here."""
        return self.live.manifest

    @property
    def key(self) -> Key:
        """Name and version."""
        return self.manifest.name, self.manifest.version

    @property
    def busy(self) -> bool:
        """Whether it has sessions, or requests without an answer."""
        stats = self.engine.stats()
        # What has just been submitted shows at the bridge before it shows in the engine's counts.
        return stats.sessions + stats.waiting + stats.running + self.live.bridge.unanswered > 0

    async def warm(self) -> None:
        """Wait until its engines serve: they have captured what they capture first, or given up."""
        waiting = [off_loop(partial(warm_up.wait, _WARM_S)) for warm_up in self.warm_ups]
        if not all(await asyncio.gather(*waiting)):
            log.warning("model %s version %d: serves although it is not ready after %g s", *self.key, _WARM_S)

    async def close(self) -> None:
        """Stop the engine and give back what it took; what has not finished fails with ShuttingDown."""
        await asyncio.to_thread(self.engine.close)
        # Not on the loop: on a GPU whoever closes a model waits for captures of others.
        await asyncio.gather(*(off_loop(partial(close_runner, runner)) for runner in self.runners))
        await asyncio.to_thread(give_back)


def launch(
    model: ServedModel, settings: Settings, on_stopped: Callable[[str], None], loop: asyncio.AbstractEventLoop
) -> Running:
    """Start a model's engine and connect it to the loop.

    Args:
        model: Opened.
        settings: Of the service.
        on_stopped: Called on a runner thread with the model's name if a bug ends its engine.
        loop: That of the calls.
    """
    manifest, runner, num_devices = model.manifest, model.runner, len(model.runners)
    max_sessions = settings.session_limit(runner.state_bytes, num_devices)
    batch = _batch_limits(model, settings)
    limits = EngineLimits(
        session_slots=settings.session_slots,
        max_sessions=max_sessions,  # of several devices it is the slots and the host memory of each that bound it
        max_host_bytes=settings.max_host_state_bytes // num_devices,
        max_marks=settings.max_marks,
        kept_answers=settings.kept_answers,
        max_waiting=-(-settings.max_waiting // num_devices),
        max_queue_delay_s=settings.max_queue_delay_ms / 1000,
        fill_delay_s=settings.fill_delay_ms / 1000,
        batching=settings.batching,
        batch=batch,
        max_run_s=settings.max_run_s,
    )
    num_runners = runners_of(model.runners, settings)
    engines: list[Engine | Devices] = []
    stopped = partial(on_stopped, manifest.name)

    warm_ups: list[WarmUp] = []

    def made_of(runner: Runner) -> Callable[[Publish, Callable[[], None]], Engine]:
        warm_up = WarmUp(runner.warm_up)
        warm_ups.append(warm_up)
        return lambda publish, stopped: Engine(
            runner, limits, publish, stopped, num_runners=num_runners, warm_up=warm_up.run
        )

    def connect(publish: Publish) -> Engine | Devices:
        engine: Engine | Devices
        if num_devices == 1:
            engine = made_of(runner)(publish, stopped)
        else:
            engine = Devices([made_of(one) for one in model.runners], publish, stopped, max_sessions)
        engine.start()
        engines.append(engine)
        return engine

    crf = model.crf
    live = LiveModel(
        manifest=manifest,
        tokenizers=model.tokenizers,
        bridge=Bridge(connect, loop),
        limits=Limits.of(manifest, settings, max_sessions),
        provider=runner.provider,
        state_bytes=runner.state_bytes,
        warnings=(*model.warnings, *model.variances),
        decode_tags=None
        if crf is None
        else partial(viterbi, start=crf.start, end=crf.end, transitions=crf.transitions),
        batch_invariant=not model.variances,
        max_batch_rows=batch.max_rows,
    )
    return Running(live, engines[0], model.runners, model.bundle, tuple(warm_ups))


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
    imported = model.manifest.imported
    return limits if imported is None or imported.max_rows is None else limits.cut(imported.max_rows)
