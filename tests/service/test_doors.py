"""Both ways in at once: they open together, share one core, and close together."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import grpc
import grpc.aio
import pytest

from export.manifest import Manifest
from protos.inference import grpc_service_pb2 as pb
from protos.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from service.main import Doors
from service.settings import Settings
from tests.service.oip.world import accumulator, make_world
from tests.service.rpc.oip.world import floats, step

DRAIN_TIMEOUT_S = 4.0
CLOSING_S = 3.5  # for what follows the drain: connections linger and close


class Open(NamedTuple):
    """Doors that are open.

    Args:
        doors: Themselves.
        stub: Of gRPC; typed as Any because the generated stub knows the blocking calls only.
        http: Asks over HTTP.
        url: Where.
    """

    doors: Doors
    stub: Any
    http: aiohttp.ClientSession
    url: str


@asynccontextmanager
async def opened(capsys: pytest.CaptureFixture[str], *manifests: Manifest, **settings: Any) -> AsyncIterator[Open]:
    world = make_world(asyncio.get_running_loop(), *manifests)
    chosen = Settings(port=0, http_port=0, drain_timeout_s=DRAIN_TIMEOUT_S, **settings)
    doors = Doors(chosen, world.models, world.control)
    await doors.open()
    said = re.fullmatch(r"serving on (\S+)\nserving HTTP on (\S+)\n", capsys.readouterr().out)
    assert said is not None
    async with grpc.aio.insecure_channel(said[1]) as channel, aiohttp.ClientSession() as session:
        try:
            yield Open(doors, GRPCInferenceServiceStub(channel), session, f"http://{said[2]}")
        finally:
            await doors.close()


async def over_http(door: Open, sequence_id: int, value: float, **flags: bool) -> tuple[int, Any]:
    inputs = [
        {"name": "values", "datatype": "FP32", "shape": [1, 1], "data": [value]},
        {"name": "scale", "datatype": "FP32", "shape": [1], "data": [1.0]},
    ]
    body = {"inputs": inputs, "parameters": {"sequence_id": sequence_id, **flags}}
    async with door.http.post(f"{door.url}/v2/models/sums/infer", json=body) as response:
        return response.status, await response.json()


async def test_a_sequence_may_come_in_by_either(capsys: pytest.CaptureFixture[str]) -> None:
    async with opened(capsys, drain_idle_s=0) as door:
        status, _ = await over_http(door, 1, 3, sequence_start=True)
        assert status == 200
        assert floats(await door.stub.ModelInfer(step(1, 4))) == [7]


async def test_a_model_may_be_called_stats(capsys: pytest.CaptureFixture[str]) -> None:
    async with opened(capsys, accumulator(name="stats")) as door:

        async def get(path: str) -> Any:
            async with door.http.get(f"{door.url}/v2/models/{path}") as response:
                assert response.status == 200
                return await response.json()

        assert "model_stats" in await get("stats")  # as the reference server has it: everybody's
        assert (await get("stats/versions/1"))["name"] == "stats"
        assert (await get("stats/config"))["name"] == "stats"
        assert [one["name"] for one in (await get("stats/stats"))["model_stats"]] == ["stats"]
        assert (await door.stub.ModelMetadata(pb.ModelMetadataRequest(name="stats"))).name == "stats"


@pytest.mark.slow
async def test_a_sequence_that_never_ends_holds_both_for_one_drain_timeout(capsys: pytest.CaptureFixture[str]) -> None:
    loop = asyncio.get_running_loop()
    async with opened(capsys, drain_idle_s=3.0) as door:
        status, _ = await over_http(door, 1, 1, sequence_start=True)
        assert status == 200
        num_steps, began_s = 1, loop.time()
        closing = asyncio.create_task(door.doors.close())
        while True:
            try:
                status, answer = await over_http(door, 1, 1)
            except aiohttp.ClientError:  # closed
                break
            if status != 200:
                break
            num_steps += 1
            assert answer["outputs"][0]["data"] == [num_steps]  # not one is lost meanwhile
        assert not await closing  # and it is said that something was cut off
        assert DRAIN_TIMEOUT_S <= loop.time() - began_s < DRAIN_TIMEOUT_S + CLOSING_S


async def test_both_refuse_what_is_new_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    async with opened(capsys, drain_idle_s=5.0) as door:
        await over_http(door, 1, 1, sequence_start=True)
        closing = asyncio.create_task(door.doors.close())
        while (await door.stub.ServerReady(pb.ServerReadyRequest())).ready:
            await asyncio.sleep(0)
        status, answer = await over_http(door, 2, 1, sequence_start=True)
        assert status == 503 and answer["error"].startswith("Server is stopping")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.stub.ModelInfer(step(3, 1, start=True))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await over_http(door, 1, 1, sequence_end=True))[0] == 200
        assert await closing
