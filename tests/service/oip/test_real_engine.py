"""The protocol in front of a real engine: sums that plain Python keeps as well."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.manifest import Manifest
from service.bridge import Bridge
from service.engine.engine import Engine
from service.engine.interface import OpenSession, Publish, StepTensors
from service.engine.limits import EngineLimits
from service.engine.schedule import ScheduleLimits
from service.models import Limits, LiveModel, Models
from service.oip.core import Core
from service.oip.errors import OipError
from service.oip.inference.answer import Answer
from service.oip.messages import InferRequest, InferResponse, RequestedOutput
from service.runtime.runner import Runner
from service.settings import Settings
from tests.service.engine.harness import open_tiny
from tests.service.oip.world import FakeControl, outputs_of, tensor
from tests.service.tensor_models import INITIAL_TOTAL, write_accumulator, write_padded

PATIENCE_S = 60.0
NUM_SLOTS = 16  # for more sequences than that: half of them are out of the pool at any time


@asynccontextmanager
async def serving(
    folder: Path, manifest: Manifest, num_runners: int = 2, max_sessions: int = 60
) -> AsyncIterator[tuple[Core, Engine]]:
    """Serve a bundle that was written by hand; at the end no session may be left and the books must be right."""
    loop = asyncio.get_running_loop()
    runner = open_tiny(folder, manifest, NUM_SLOTS)
    batch = ScheduleLimits(max_rows=8)
    limits = EngineLimits(session_slots=12, max_sessions=max_sessions, max_host_bytes=100_000, batch=batch)

    def connect(publish: Publish) -> Engine:
        engine = Engine(runner, limits, publish, num_runners=num_runners)
        engine.start()
        return engine

    bridge = Bridge(connect, loop)
    engine = bridge.engine
    assert isinstance(engine, Engine)
    stated = replace(Limits.of(manifest, Settings(), 60), max_sessions=60)
    models = Models([LiveModel(manifest, {}, bridge, stated, "cpu", 12, max_batch_rows=8)])
    core = Core(models, FakeControl(models), version="1", sequence_idle_timeout_s=PATIENCE_S)
    try:
        yield core, engine
        async with asyncio.timeout(PATIENCE_S):
            while core.num_sequences or engine.stats().sessions or engine.stats().running or bridge.unanswered:
                await asyncio.sleep(0.001)
        engine.check_integrity()
    finally:
        await asyncio.to_thread(engine.close)
        runner.close()


@dataclass
class Told:
    """What plain Python knows of a sequence."""

    total: float = 0.0
    count: int = 0
    is_open: bool = False


def request(
    sequence: int, values: Any, start: bool, end: bool, outputs: tuple[str, ...] = (), *more: Any
) -> InferRequest:
    return InferRequest(
        "tensors",
        "",
        "",
        (tensor("values", np.asarray(values, np.float32)[None]), tensor("scale", 1.0), *more),
        tuple(map(RequestedOutput, outputs)),
        {"sequence_id": sequence, "sequence_start": start, "sequence_end": end},
    )


@pytest.mark.parametrize("seed", range(3))
async def test_sequences_of_all_kinds_side_by_side(tmp_path: Path, seed: int) -> None:
    """Pipelined, restarted, ended, cancelled, with several steps, given states and states told: every sum is right."""
    generator = random.Random(seed)
    async with serving(tmp_path, write_accumulator(tmp_path), max_sessions=2000) as (core, _):
        told = {sequence: Told() for sequence in range(1, 31)}
        asked: list[tuple[Answer, dict[str, Any] | None]] = []
        for _ in range(1500):
            sequence = generator.choice(list(told))
            now = told[sequence]
            start = generator.random() < (0.1 if now.is_open else 0.9)
            end, timed, states = generator.random() < 0.15, generator.random() < 0.3, generator.random() < 0.2
            steps = [float(generator.randrange(9)) for _ in range(generator.choice([1, 2, 5]) if timed else 1)]
            given = [tensor("total_in", [[50.0]])] if start and generator.random() < 0.3 else []
            values: Any = [[value, 1.0] for value in steps] if timed else [steps[0], 1.0]
            outputs = ("total", "count_out", "total_out", "count") if states else ("total", "count") if timed else ()
            sent = request(sequence, values, start, end, outputs, *given)
            if not now.is_open and not start:
                with pytest.raises(OipError, match="must specify the START flag"):
                    core.begin(sent)
                continue
            if start:
                now.total, now.count = 50.0 if given else INITIAL_TOTAL, 0
            totals, counts = [], []
            for value in steps:
                now.total, now.count = now.total + value + 1, now.count + 1
                totals.append([now.total])
                counts.append(now.count)
            expected: dict[str, Any] = {"total": [totals] if timed else totals, "count": [counts] if timed else counts}
            if states:
                expected |= {"total_out": [[now.total]], "count_out": [now.count]}
            elif not timed:
                expected["twice"] = [2 * [steps[0], 1.0]]
            now.is_open = not end
            asked.append((core.begin(sent), expected))
            if generator.random() < 0.03 and not asked[-1][0].done():
                asked[-1][0].cancel()
                now.is_open = False
            if len(asked) % 50 == 0:  # a busy machine must not be asked for more than it can do
                await asyncio.wait([asked[-25][0]], timeout=PATIENCE_S)
        wrong = cancelled = 0
        async with asyncio.timeout(PATIENCE_S):
            for answer, want in asked:
                try:
                    got = await answer
                except asyncio.CancelledError:
                    cancelled += 1
                except OipError as error:
                    assert error.code == "cancelled", error.message  # something before it was
                    cancelled += 1
                else:
                    wrong += outputs_of(got) != want
        assert wrong == 0
        assert len(asked) // 4 > cancelled > 0
        for sequence, now in told.items():
            if now.is_open:
                core.begin(request(sequence, [0.0], False, True))


async def test_several_steps_of_outputs_whose_sizes_may_differ_are_refused_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, write_accumulator(tmp_path)) as (core, _):
        await core.begin(request(1, [1.0], True, False))
        with pytest.raises(OipError, match="as only a run tells the sizes of its output 'twice', got 2") as caught:
            core.begin(request(1, [[1.0], [1.0]], False, False))
        assert caught.value.code == "invalid_argument"
        response = await core.begin(request(1, [[1.0], [1.0]], False, True, ("total",)))
        assert outputs_of(response) == {"total": [[[INITIAL_TOTAL + 2], [INITIAL_TOTAL + 3]]]}


async def test_sequences_share_runs_and_the_statistics_say_so(tmp_path: Path) -> None:
    async with serving(tmp_path, write_accumulator(tmp_path), num_runners=1) as (core, _):
        for sequence in range(1, 41):
            core.begin(request(sequence, [1.0], True, False))
        answers = [core.begin(request(sequence, [1.0], False, True)) for sequence in range(1, 41)]
        assert {outputs_of(answer)["total"][0][0] for answer in await asyncio.gather(*answers)} == {INITIAL_TOTAL + 2}
        (told,) = core.statistics("tensors")
        batches: Any = told["batch_stats"]
        assert sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in batches) == 80
        assert told["inference_count"] == 80
        assert int(str(told["execution_count"])) < 80


async def test_more_sequences_than_fit_are_told_so_and_the_others_go_on(tmp_path: Path) -> None:
    async with serving(tmp_path, write_accumulator(tmp_path)) as (core, _):
        answers = [core.begin(request(sequence, [1.0], True, False)) for sequence in range(1, 66)]
        got = await asyncio.gather(*answers, return_exceptions=True)
        assert all(isinstance(one, InferResponse) for one in got[:60])
        assert all(isinstance(one, OipError) and "Exceeds maximum queue size" in one.message for one in got[60:])
        assert core.num_sequences == 60
        for sequence in range(1, 61):
            core.begin(request(sequence, [1.0], False, True))


async def test_a_timeout_is_told_while_another_run_goes_on_and_not_of_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reached = threading.Event(), threading.Event()
    run = Runner.run

    def held(*args: Any, **kwargs: Any) -> Any:
        reached.set()
        assert gate.wait(PATIENCE_S)
        return run(*args, **kwargs)

    monkeypatch.setattr(Runner, "run", held)
    async with serving(tmp_path, write_accumulator(tmp_path), num_runners=1) as (core, engine):
        try:
            first = request(1, [1.0], True, False)
            running = core.begin(replace(first, parameters={**first.parameters, "timeout": 100_000}))
            await asyncio.to_thread(reached.wait, PATIENCE_S)
            other = request(2, [1.0], True, False)
            late = core.begin(replace(other, parameters={**other.parameters, "timeout": 100_001}))
            behind = core.begin(request(1, [1.0], False, True))
            with pytest.raises(OipError, match="timeout of the corresponding sequence has been expired"):
                await asyncio.wait_for(late, PATIENCE_S)
            assert engine.has_begun(running.work)
            assert not engine.has_begun(behind.work)
            assert not running.done()
        finally:
            gate.set()
        assert outputs_of(await running)["total"] == [[INITIAL_TOTAL + 1]]
        assert outputs_of(await behind)["total"] == [[INITIAL_TOTAL + 2]]
        assert engine.has_begun(behind.work)  # it is over


def test_what_waits_behind_a_run_has_not_begun(tmp_path: Path) -> None:
    """What timeouts rest on: whether a request waits in the inbox, waits at its session, runs or is over."""
    batch = ScheduleLimits(max_rows=8)
    limits = EngineLimits(session_slots=12, max_sessions=60, batch=batch)
    engine = Engine(open_tiny(tmp_path, write_accumulator(tmp_path), NUM_SLOTS), limits, lambda _: None, num_runners=2)
    values, scale = {"values": np.ones((1, 1), np.float32)}, {"scale": np.array(1, np.float32)}
    engine.submit(OpenSession(1, 100))
    for work in (2, 3):
        engine.submit(StepTensors(work, 100, values, scale, 1, ("total",)))
    assert not engine.has_begun(2)
    assert engine.begin(0) is not None
    assert [engine.has_begun(work) for work in (2, 3)] == [True, False]
    assert engine.begin(1) is None  # the session is in a batch already
    engine.finish(0, {"total": np.zeros((1, 1), np.float32)})
    assert [engine.has_begun(work) for work in (2, 3)] == [True, False]
    assert engine.begin(1) is not None
    assert engine.has_begun(3)
    engine.close()


async def test_rows_of_several_lengths_share_a_run_and_keep_their_own(tmp_path: Path) -> None:
    async with serving(tmp_path, write_padded(tmp_path)) as (core, _):
        lengths = [3, 1, 5, 2, 5]
        inputs = [np.arange(2.0 * length).reshape(1, length, 2) for length in lengths]
        answers = [core.begin(InferRequest("tensors", "", "", (tensor("x", array),))) for array in inputs]
        for array, answer in zip(inputs, await asyncio.gather(*answers), strict=True):
            assert outputs_of(answer) == {"sums": array.sum(axis=1).tolist(), "doubled": (2 * array).tolist()}
