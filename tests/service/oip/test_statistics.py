"""What is counted, and for how long."""

import asyncio
import gc
import time
import weakref
from typing import Any

import pytest

from service.engine.interface import GraphRuns, RunStats
from service.errors import Overloaded
from service.oip.errors import OipError
from tests.service.oip.asking import refusal, run
from tests.service.oip.world import (
    World,
    accumulator,
    identity,
    make_world,
    step,
    tensor,
)


async def test_statistics_count_requests_and_what_ran(world: World) -> None:
    begin = world.core.begin
    await begin(step(1, [[1], [2]], start=True))
    await begin(step(1, [1]))
    world.engine.refusals = [Overloaded("full", 1)]
    refusal(world, step(1, [1]))
    world.engine.hold = True
    begin(step(1, [1])).cancel()
    (told,) = world.core.statistics("sums")
    counts: Any = told["inference_stats"]
    assert (told["name"], told["version"]) == ("sums", "1")
    assert (told["inference_count"], told["execution_count"]) == (3, 3)
    assert (counts["success"]["count"], counts["fail"]["count"]) == (2, 2)
    assert counts["success"]["ns"] > 0
    assert counts["queue"] == {"count": 6, "ns": 125_000_000}
    assert counts["compute_infer"] == {"count": 3, "ns": 750_000_000}
    batches: Any = told["batch_stats"]
    assert [(batch["batch_size"], batch["compute_infer"]) for batch in batches] == [
        (1, {"count": 2, "ns": 250_000_000}),
        (4, {"count": 1, "ns": 500_000_000}),
    ]
    assert abs(int(str(told["last_inference"])) - time.time() * 1000) < 60_000


async def test_requests_that_are_refused_count_as_failures(world: World) -> None:
    begin = world.core.begin
    bad = [
        step(1, [1]),  # no START
        step(None, [1]),  # no sequence
        step(1, [1], tensor("other", [1]), start=True),
        step(1, [1], start=True, outputs=["other"]),
    ]
    for request in bad:
        refusal(world, request)
    await begin(step(1, [1], start=True))
    world.models.put(make_world(asyncio.get_running_loop(), accumulator(2)).models.by_name["sums"])
    refusal(world, step(1, [1], version="2"))  # which is not the version that the sequence has
    world.core.drain()
    refusal(world, step(2, [1], start=True, version="1"))
    counts: Any = world.core.statistics("sums", "1")[0]["inference_stats"]
    assert (counts["success"]["count"], counts["fail"]["count"]) == (1, len(bad) + 2)


async def test_statistics_go_on_when_another_bundle_takes_the_version(world: World) -> None:
    def told() -> Any:
        (one,) = world.core.statistics("sums")
        return one

    await world.core.begin(step(1, [1], start=True))
    before = told()
    newer = make_world(asyncio.get_running_loop(), accumulator(1))
    newer.engine.ran = RunStats((GraphRuns("step", 4, 2, 1.0), GraphRuns("step", 8, 1, 0.5)), 3, 0.5)
    world.models.put(newer.models.by_name["sums"])
    await world.core.begin(step(2, [1], start=True))
    after = told()
    assert [one["inference_count"] for one in (before, after)] == [1, 2]
    assert [one["inference_stats"]["success"]["count"] for one in (before, after)] == [1, 2]
    assert [one["execution_count"] for one in (before, after)] == [3, 6]
    assert after["inference_stats"]["queue"] == {"count": 9, "ns": 625_000_000}
    assert [(batch["batch_size"], batch["compute_infer"]) for batch in after["batch_stats"]] == [
        (1, {"count": 2, "ns": 250_000_000}),
        (4, {"count": 3, "ns": 1_500_000_000}),
        (8, {"count": 1, "ns": 500_000_000}),
    ]


async def test_statistics_are_of_all_models_or_of_those_that_are_named() -> None:
    world = make_world(asyncio.get_running_loop(), accumulator(1), accumulator(3), identity())
    told = [(one["name"], one["version"]) for one in world.core.statistics()]
    assert told == [("same", "1"), ("sums", "1"), ("sums", "3")]
    assert [one["version"] for one in world.core.statistics("sums")] == ["1", "3"]
    assert [one["version"] for one in world.core.statistics("sums", "3")] == ["3"]
    with pytest.raises(OipError, match=r"^Request for unknown model: 'none' is not found$"):
        world.core.statistics("none")


async def test_counts_begin_again_with_a_version_that_is_loaded_again(world: World) -> None:
    await world.core.begin(run())
    world.models.remove(world.models.by_name["same"])
    await world.core.begin(step(1, [1], start=True))
    world.models.put(make_world(asyncio.get_running_loop(), identity()).models.by_name["same"])
    (told,) = world.core.statistics("same")
    assert told["inference_count"] == 0


async def test_a_version_that_is_served_no_more_is_let_go_of(world: World) -> None:
    await world.core.begin(run())
    seen = weakref.ref(world.models.by_name["same"])
    newer = make_world(asyncio.get_running_loop(), identity().model_copy(update={"version": 2}))
    world.models.put(newer.models.by_name["same"])
    world.models.remove(world.models.versions("same")[1])
    assert (await world.core.begin(run())).model_version == "2"
    gc.collect()
    assert seen() is None
