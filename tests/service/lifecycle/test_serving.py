"""How versions of models come and go: which are served, what is opened, and what becomes of who uses them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.engine.engine import Engine
from service.engine.interface import SessionEnded
from service.errors import ModelNotFound, SessionNotFound, ShuttingDown
from service.lifecycle.serving import Serving, Update
from service.measuring.variance import Variance
from service.models import LiveModel
from service.repository import list_models
from service.settings import Settings
from tests.service.lifecycle.shelf import FIRST_TOTAL, Shelf
from tests.service.lifecycle.steps import close_session, open_session, step, step_of
from tests.service.lifecycle.told import Told
from tests.service.rpc.world import wait_until

SMALL = {"provider": "cpu", "num_slots": 16, "runners": 1, "max_queue_delay_ms": 60_000}


@asynccontextmanager
async def serving_of(shelf: Shelf, **settings: object) -> AsyncIterator[Serving]:
    chosen = Settings.model_validate({"repository": shelf.folder, **SMALL, **settings})
    serving = Serving(chosen, lambda name: None)
    try:
        yield serving
    finally:
        await serving.close()


async def look(serving: Serving, shelf: Shelf, name: str = "acc", **how: bool) -> Update:
    found = list_models(shelf.folder).get(name, [])
    return await serving.update(name, found, **{"keep_gone": True, "retry": True, **how})


def served(serving: Serving) -> list[tuple[str, int]]:
    return [(model.manifest.name, model.manifest.version) for model in serving.models]


def states(serving: Serving) -> dict[tuple[str, int], str]:
    return {(state.name, state.version): state.state for state in serving.states()}


async def first_total(model: LiveModel) -> float:
    """What a new session begins with: tells the version that answers."""
    session = await open_session(model)
    total, _ = await step(model, session, 0)
    await close_session(model, session)
    return total


async def test_what_is_logged_of_a_model_as_a_warning_is_told_to_who_asks_for_it(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = Variance("step", "state:total", (2, 3), 1.9e-05, False)
    monkeypatch.setattr("service.repository.probe_company", lambda *_: (found,))
    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        [model] = serving.models
    said = "step: state:total differs in batches of 2, 3 by up to 1.9e-05"
    assert (model.warnings, model.batch_invariant) == ((said,), False)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"model acc version 1: {said}"
    ]


@pytest.mark.parametrize(
    ("policy", "expected", "opened"),
    [
        ("latest 1", [3], [5, 4, 3]),
        ("latest 2", [2, 3], [5, 4, 3, 2]),
        ("latest 9", [1, 2, 3], [5, 4, 3, 2, 1]),
        ("all", [1, 2, 3], [5, 4, 3, 2, 1]),
        ("specific 1,3,4", [1, 3], [4, 3, 1]),
        ("specific 7", [], []),
    ],
)
async def test_a_policy_says_what_is_served_and_broken_versions_do_not_count(
    shelf: Shelf, policy: str, expected: list[int], opened: list[int]
) -> None:
    for version in (1, 2, 3):
        shelf.put("acc", version)
    shelf.put_broken("acc", 4)
    shelf.put_broken("acc", 5)
    async with serving_of(shelf, version_policies={"acc": policy}) as serving:
        update = await look(serving, shelf)
        assert served(serving) == [("acc", version) for version in expected]
        assert [version for _, version in shelf.opened] == opened
        assert update.num_new == len(expected)
        assert {bundle.version for bundle in update.refused} == set(opened) & {4, 5}
        for version in expected:
            assert await first_total(serving.models.find("acc", version)) == FIRST_TOTAL * version
        if expected:
            assert serving.models.find("acc") is serving.models.find("acc", max(expected))


async def test_a_newer_version_takes_over_and_sessions_end_on_the_one_that_they_began_on(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        old = serving.models.find("acc")
        session = await open_session(old)
        assert await step(old, session, 5) == (1005, 1)
        shelf.put("acc", 2)
        await look(serving, shelf)
        assert served(serving) == [("acc", 2)]
        assert await first_total(serving.models.find("acc")) == 2000
        with pytest.raises(ModelNotFound, match="expected 2, the version of 'acc' that is served, got 1"):
            serving.models.find("acc", 1)
        assert await step(old, session, 7) == (1012, 2)
        assert states(serving) == {("acc", 1): "UNLOADING", ("acc", 2): "READY"}
        assert await close_session(old, session) == 2
        await wait_until(lambda: states(serving)["acc", 1] == "UNAVAILABLE")
        assert [(state.version, state.reason) for state in serving.states()] == [(1, "unloaded"), (2, "")]
        with pytest.raises(ShuttingDown):
            await open_session(old)
        shelf.remove("acc", 1)
        serving.forget_unloaded([("acc", 2)])
        assert states(serving) == {("acc", 2): "READY"}


async def test_what_could_not_be_opened_leaves_the_old_serving_says_why_and_is_left_until_it_changes(
    shelf: Shelf,
) -> None:
    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        folder = shelf.put_broken("acc", 2)
        await look(serving, shelf, retry=False)
        assert served(serving) == [("acc", 1)]
        [broken] = [state for state in serving.states() if state.state == "UNAVAILABLE"]
        assert (broken.name, broken.version) == ("acc", 2)
        assert "expected 778 bytes, got 9" in broken.reason
        assert [(bundle.version, bundle.kind) for bundle in serving.models.refused] == [(2, "bundle")]
        before = list(shelf.opened)
        for _ in range(3):
            assert (await look(serving, shelf, retry=False)).refused
        assert shelf.opened == before
        assert [state.reason for state in serving.states() if state.version == 2] == [broken.reason]
        await look(serving, shelf, retry=True)
        assert shelf.opened == [*before, ("acc", 2)]
        os.utime(folder / "step.onnx", ns=(1, 1))
        await look(serving, shelf, retry=False)
        assert shelf.opened == [*before, ("acc", 2), ("acc", 2)]
        shelf.put("acc", 2)
        await look(serving, shelf, retry=False)
        assert served(serving) == [("acc", 2)]
        assert serving.models.refused == ()


async def test_how_long_a_run_may_take_is_a_setting(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    async with serving_of(shelf, max_run_s=7.5) as serving:
        await look(serving, shelf)
        (engine,) = [running.engine for running in serving._all()]
        assert isinstance(engine, Engine) and engine._limits.max_run_s == 7.5


async def test_another_bundle_of_the_same_version_takes_over_and_the_same_one_touched_does_not(shelf: Shelf) -> None:
    folder = shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        old = serving.models.find("acc")
        session = await open_session(old)
        os.utime(folder / "manifest.json", ns=(1, 1))
        await look(serving, shelf, retry=False)
        assert serving.models.find("acc") is old
        assert shelf.opened == [("acc", 1)]
        shelf.put_broken("acc", 1)
        await look(serving, shelf, retry=False)
        assert serving.models.find("acc") is old
        [state] = serving.states()
        assert state.state == "READY" and "expected 778 bytes, got 9" in state.reason
        shelf.put("acc", 1, first_total=7)
        await look(serving, shelf, retry=False)
        assert await first_total(serving.models.find("acc")) == 7
        assert await step(old, session, 1) == (1001, 1)
        assert states(serving) == {("acc", 1): "READY"}
        await close_session(old, session)
        await wait_until(lambda: serving.models.find("acc") is not old and old.bridge.engine.stats().sessions == 0)


@pytest.mark.parametrize(("keep_gone", "expected"), [(True, [("acc", 2)]), (False, [("acc", 1)])])
async def test_a_version_whose_folder_is_gone_is_kept_or_not(
    shelf: Shelf, keep_gone: bool, expected: list[tuple[str, int]]
) -> None:
    shelf.put("acc", 1)
    shelf.put("acc", 2)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        shelf.remove("acc", 2)
        await look(serving, shelf, keep_gone=keep_gone)
        assert served(serving) == expected


async def test_changes_of_one_model_wait_for_each_other_and_those_of_others_do_not(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    shelf.put("other", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf, "other")
        go_on = shelf.hold("acc", 1)
        loads = [asyncio.create_task(look(serving, shelf)) for _ in range(2)]
        await wait_until(shelf.is_held)
        assert states(serving) == {("acc", 1): "LOADING", ("other", 1): "READY"}
        unload = asyncio.create_task(serving.withdraw("acc"))
        await serving.withdraw("other")
        assert served(serving) == []
        assert not any(task.done() for task in (*loads, unload))
        go_on()
        assert [update.num_new for update in await asyncio.gather(*loads)] == [1, 0]
        await unload
        assert served(serving) == []
        assert shelf.opened == [("other", 1), ("acc", 1)]


async def test_a_model_is_loaded_again_while_it_is_being_unloaded(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        old = serving.models.find("acc")
        session = await open_session(old)
        await serving.withdraw("acc")
        with pytest.raises(ModelNotFound):
            serving.models.find("acc")
        assert states(serving) == {("acc", 1): "UNLOADING"}
        await look(serving, shelf)
        new = serving.models.find("acc")
        assert new is not old
        assert await first_total(new) == 1000
        assert await step(old, session, 3) == (1003, 1)
        await close_session(old, session)
        await wait_until(lambda: not old.bridge.engine.stats().sessions)
        assert states(serving) == {("acc", 1): "READY"}


async def test_closing_while_a_model_is_opened_ends_that_and_serves_nothing_new(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        old = serving.models.find("acc")
        shelf.put("acc", 2)
        go_on = shelf.hold("acc", 2)
        loading = asyncio.create_task(look(serving, shelf))
        await wait_until(shelf.is_held)
        closing = asyncio.create_task(serving.close())
        await asyncio.sleep(0)
        go_on()
        with pytest.raises(ShuttingDown):
            await loading
        await closing
        assert serving.models.find("acc") is old
        with pytest.raises(ShuttingDown):
            await look(serving, shelf)


async def test_a_thread_that_hangs_does_not_keep_the_service_from_closing(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.lifecycle.serving._CHANGES_S", 0.1)
    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        go_on = shelf.hold("acc", 1)
        loading = asyncio.create_task(look(serving, shelf))
        await wait_until(shelf.is_held)
        async with asyncio.timeout(60):
            await serving.close()
        assert not loading.done()
        go_on()
        with pytest.raises(ShuttingDown):
            await loading


async def test_an_engine_that_cannot_be_started_is_a_bundle_that_cannot_be_served(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        shelf.put("acc", 2)

        def launch(*_: Any) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr("service.lifecycle.serving.launch", launch)
        [bundle] = (await look(serving, shelf)).refused
        assert (bundle.version, bundle.kind, bundle.reason) == (2, "graphs", "can't start new thread")
        assert served(serving) == [("acc", 1)]


async def test_sessions_of_an_old_version_end_when_its_time_is_up_after_what_is_pending(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    async with serving_of(shelf, retire_timeout_s=0) as serving:
        await look(serving, shelf)
        old, told = serving.models.find("acc"), Told()
        session = await open_session(old)
        old.bridge.watch_session(session, told)
        shelf.put("acc", 2)
        await look(serving, shelf)
        steps = [step_of(session, 1) for _ in range(50)]
        pending = asyncio.ensure_future(old.bridge.answers(steps))
        await wait_until(lambda: told.ends)
        assert told.ends == [SessionEnded(session, False, 0)]
        assert old.bridge.retired
        assert len(await pending) == 50
        with pytest.raises((SessionNotFound, ShuttingDown)):
            await step(old, session, 1)
        await wait_until(lambda: states(serving) == {("acc", 1): "UNAVAILABLE", ("acc", 2): "READY"})


@pytest.mark.slow
async def test_nothing_fails_while_versions_are_swapped_under_load(shelf: Shelf) -> None:
    """Whoever asks finds a model at all times, and every session's sum is exact and of one version."""
    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        stop = asyncio.Event()
        seen: set[int] = set()

        async def keep_stepping() -> int:
            sessions = 0
            while not stop.is_set():
                model = serving.models.find("acc")
                session, version = await open_session(model), model.manifest.version
                for i in range(1, 20):
                    assert await step(model, session, i) == (FIRST_TOTAL * version + i * (i + 1) // 2, i)
                assert await close_session(model, session) == 19
                seen.add(version)
                sessions += 1
            return sessions

        callers = [asyncio.create_task(keep_stepping()) for _ in range(6)]
        for version in range(2, 22):
            shelf.put("acc", version)
            shelf.remove("acc", version - 1)
            await look(serving, shelf)
            await wait_until(lambda version=version: version in seen or any(task.done() for task in callers), 30)
        stop.set()
        assert sum(await asyncio.gather(*callers)) > 100
        assert seen == set(range(1, 22))
        await wait_until(lambda: list(states(serving).values()).count("UNLOADING") == 0, 30)
