"""Which sessions a newer version takes over, and that it takes them all."""

import asyncio
from typing import Any

import pytest

from export.manifest import FileEntry, GraphSpec, Manifest, TensorSpec
from service.lifecycle.handover import may_carry
from service.models import LiveModel
from tests.service.lifecycle.shelf import Shelf
from tests.service.lifecycle.steps import close_session, open_session, read, step, step_of
from tests.service.lifecycle.test_serving import first_total, look, serving_of, states
from tests.service.lifecycle.told import Told
from tests.service.rpc.world import make_manifest, wait_until


def changed(manifest: Manifest, **fields: Any) -> Manifest:
    return manifest.model_copy(update=fields)


OLD = changed(
    make_manifest("lm", "language_model"),
    files={"x.onnx": FileEntry(sha256="0" * 64, num_bytes=1), "tokens.json": FileEntry(sha256="1" * 64, num_bytes=1)},
)
NEW = changed(OLD, version=4, carry_sessions=True)
STATE = OLD.states[0]
OTHER_STEP = GraphSpec(file="x.onnx", inputs=(TensorSpec(name="y", dtype="float32", shape=("B",)),), outputs=())


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (NEW, True),
        (changed(NEW, files={**NEW.files, "x.onnx": FileEntry(sha256="2" * 64, num_bytes=9)}), True),  # other weights
        (changed(NEW, carry_sessions=False), False),
        (changed(NEW, states=(STATE.model_copy(update={"shape": (2,)}),)), False),
        (changed(NEW, states=(STATE.model_copy(update={"dtype": "float64"}),)), False),
        (changed(NEW, states=(STATE.model_copy(update={"name": "sum"}),)), False),
        (changed(NEW, states=(STATE, STATE.model_copy(update={"name": "sum"}))), False),
        (changed(NEW, graphs={**NEW.graphs, "step": OTHER_STEP}), False),
        (changed(NEW, graphs={"sequence": OTHER_STEP}), False),
        (changed(NEW, files={**NEW.files, "tokens.json": FileEntry(sha256="2" * 64, num_bytes=1)}), False),
        (changed(NEW, task="tagger"), False),
    ],
)
def test_sessions_are_carried_where_nothing_but_the_weights_differs_and_the_manifest_allows_it(
    new: Manifest, expected: bool
) -> None:
    assert may_carry(OLD, new) is expected


@pytest.mark.slow
async def test_sessions_are_carried_through_version_after_version_under_load(shelf: Shelf) -> None:
    """Every answer is exact and in order, whichever version takes the step; the old ones end by themselves."""
    shelf.put("acc", 1, carry_sessions=True)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        first = serving.models.find("acc")
        told = [Told() for _ in range(8)]
        sessions = [await open_session(first) for _ in told]
        for session, one in zip(sessions, told, strict=True):
            first.bridge.watch_session(session, one)
        stop = asyncio.Event()

        async def keep_stepping(session: int, model: LiveModel, at_a_time: int) -> int:
            num_steps = 0
            while not stop.is_set():
                asked = [step_of(session, 1) for _ in range(at_a_time)]
                for outputs in await model.bridge.answers(asked):
                    num_steps += 1
                    assert read(outputs) == (1000 + num_steps, num_steps)
            return num_steps

        steppers = [asyncio.create_task(keep_stepping(session, first, 1 + i)) for i, session in enumerate(sessions)]
        for version in range(2, 8):
            shelf.put("acc", version, carry_sessions=True)
            await look(serving, shelf)
            here = serving.models.find("acc")
            await wait_until(lambda here=here: all(one.models[-1:] == [here] for one in told), 30)
            assert await first_total(here) == 1000 * version
        stop.set()
        counts = await asyncio.gather(*steppers)
        assert min(counts) > 20
        last = serving.models.find("acc")
        for session, count in zip(sessions, counts, strict=True):
            assert await step(first, session, 5) == (1000 + count + 5, count + 1)
            assert await close_session(last, session) == count + 1
        assert all(one.ends == [] for one in told)
        await wait_until(lambda: list(states(serving).values()).count("UNLOADING") == 0, 30)


async def test_sessions_stay_where_the_newer_bundle_does_not_say_that_it_takes_them(shelf: Shelf) -> None:
    shelf.put("acc", 1, carry_sessions=True)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        old, told = serving.models.find("acc"), Told()
        session = await open_session(old)
        old.bridge.watch_session(session, told)
        shelf.put("acc", 2)
        await look(serving, shelf)
        assert await step(old, session, 1) == (1001, 1)
        assert (told.models, states(serving)["acc", 1]) == ([], "UNLOADING")
        shelf.put("acc", 3, carry_sessions=True)  # but the next one does
        await look(serving, shelf)
        newest = serving.models.find("acc")
        await wait_until(lambda: told.models == [newest], 30)
        assert await step(old, session, 1) == (1002, 2)
        assert await close_session(newest, session) == 2
        await wait_until(lambda: list(states(serving)) == [("acc", 1), ("acc", 2), ("acc", 3)], 30)
        await wait_until(lambda: "UNLOADING" not in states(serving).values(), 30)
