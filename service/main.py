"""From settings to a running service, and from SIGTERM to exit status 0.

open the repository -> one engine a model -> gRPC -> wait for a signal -> drain -> close

A model whose engine dies of a bug ends the process in the same order with exit status 1: health says NOT_SERVING while
the other models finish what they have, and whoever supervises the process starts a sound one.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

import uvloop

from export.bundle import BundleError
from protos.carryover.v1 import carryover_pb2 as pb
from service.decoding.viterbi import viterbi
from service.engine.engine import Engine
from service.engine.interface import Publish
from service.engine.limits import EngineLimits
from service.engine.schedule import ScheduleLimits
from service.repository import RefusedBundle, Repository, ServedModel, open_repository
from service.rpc.bridge import Bridge
from service.rpc.models import Limits, LiveModel, Models
from service.rpc.server import RpcServer
from service.runner import CPU, RunnerConfig, RunnerError
from service.settings import Settings

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SWITCH_INTERVAL_S = 0.0005  # Python's default of 5 ms is as long as a whole batch
SIGNALS = (signal.SIGTERM, signal.SIGINT)
_REFUSAL_REASON = {"bundle": pb.REFUSAL_REASON_BUNDLE, "graphs": pb.REFUSAL_REASON_GRAPHS}


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Prints `serving on <host>:<port>` once it answers; the log goes to stderr.

    Returns:
        Exit status: 0 after an orderly end, 1 where it could not start or a model broke (the log says why).
    """
    logging.basicConfig(stream=sys.stderr, level=settings.log_level.upper(), format=LOG_FORMAT, force=True)
    config = RunnerConfig(settings.provider, settings.threads, settings.num_slots, settings.num_memory_rows)
    for number in SIGNALS:  # opening large bundles takes a while, and nothing runs yet that would have to finish
        signal.signal(number, _stop_early)
    try:
        repository = open_repository(settings.repository, config)
        _report(repository, settings)
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
    engines: list[Engine] = []

    def on_stopped(name: str) -> None:
        """Take the end of an engine, on its thread."""
        log.critical("model %s has stopped: ending, to be started anew", name)
        loop.call_soon_threadsafe(stop.set)

    live = [_start_model(model, settings, loop, engines, on_stopped) for model in repository.models.values()]
    server = RpcServer(settings, Models(live, map(_refused, repository.refused)))
    try:
        port = await server.start()
    except OSError as error:
        log.error("cannot serve: %s", error)
        await _close(engines)
        return 1
    # An engine thread gets the interpreter back from the event loop within this time after each run of a graph.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What has been loaded stays: the collector need not look at it again in the middle of a request.
    gc.collect()
    gc.freeze()
    print(f"serving on {settings.model_copy(update={'port': port}).address}", flush=True)
    await stop.wait()
    for number in SIGNALS:  # a second signal ends the process at once
        loop.remove_signal_handler(number)
    log.info("stopping: %d calls in flight get %g s to finish", server.in_flight, settings.drain_timeout_s)
    if not await server.stop():
        log.warning("calls that were not finished in %g s were ended", settings.drain_timeout_s)
    await _close(engines)
    log.info("stopped")
    return int(any(engine.failed for engine in engines))


def _start_model(
    model: ServedModel,
    settings: Settings,
    loop: asyncio.AbstractEventLoop,
    engines: list[Engine],
    on_stopped: Callable[[str], None],
) -> LiveModel:
    """Start a model's engine and connect it to the loop; the engine is added to `engines`."""
    limits = EngineLimits(
        session_slots=settings.session_slots,
        max_sessions=settings.session_limit(model.runner.state_bytes),
        max_host_bytes=settings.max_host_state_bytes,
        max_marks=settings.max_marks,
        kept_answers=settings.kept_answers,
        max_waiting=settings.max_waiting,
        max_queue_delay_s=settings.max_queue_delay_ms / 1000,
        fill_delay_s=settings.fill_delay_ms / 1000,
        batching=settings.batching,
        batch=ScheduleLimits(max_rows=settings.max_batch_rows or 256, max_padded_tokens=settings.max_batch_tokens),
    )
    num_runners = settings.runners or default_runners(model.runner.provider)

    def connect(publish: Publish) -> Engine:
        engine = Engine(
            model.runner, limits, publish, partial(on_stopped, model.manifest.name), num_runners=num_runners
        )
        engines.append(engine)
        engine.start()
        return engine

    crf = model.crf
    return LiveModel(
        manifest=model.manifest,
        tokenizers=model.tokenizers,
        bridge=Bridge(connect, loop),
        limits=Limits.of(model.manifest, settings, limits.max_sessions),
        provider=model.runner.provider,
        state_bytes=model.runner.state_bytes,
        warnings=model.runner.warnings,
        decode_tags=None
        if crf is None
        else partial(viterbi, start=crf.start, end=crf.end, transitions=crf.transitions),
    )


def default_runners(provider: str) -> int:
    """Runs side by side where the settings leave it open: one a core that this process may use, one on a GPU."""
    return len(os.sched_getaffinity(0)) if provider == CPU else 1


async def _close(engines: list[Engine]) -> None:
    await asyncio.gather(*(asyncio.to_thread(engine.close) for engine in engines))


def _report(repository: Repository, settings: Settings) -> None:
    """Log one line a model and one a refused bundle."""
    for model in repository.models.values():
        manifest, runner = model.manifest, model.runner
        log.info(
            "model %s version %d: %s, %s, %s, %d slots of %d state bytes",
            manifest.name,
            manifest.version,
            manifest.task,
            manifest.precision,
            runner.provider,
            settings.num_slots,
            runner.state_bytes,
        )
        for warning in runner.warnings:
            log.warning("model %s version %d: %s", manifest.name, manifest.version, warning)
    for bundle in repository.refused:
        log.warning("refused %s version %d: %s", bundle.name, bundle.version, bundle.reason)


def _refused(bundle: RefusedBundle) -> pb.RefusedModel:
    """Tell callers of a refused bundle, and nothing of this machine: the whole reason is for the log."""
    return pb.RefusedModel(
        model=pb.ModelRef(name=bundle.name, version=bundle.version), reason=_REFUSAL_REASON[bundle.kind]
    )
