"""Tensors that lie in the machine's shared memory, named over HTTP."""

from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.service.http.world import serving


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    shared = SharedMemory(create=True, size=4096)
    yield shared
    shared.close()
    shared.unlink()


def place(offset: int, size: int, region: str = "mine") -> dict[str, Any]:
    return {"shared_memory_region": region, "shared_memory_offset": offset, "shared_memory_byte_size": size}


async def test_inputs_are_read_and_outputs_written_where_they_lie(tmp_path: Path, memory: SharedMemory) -> None:
    assert memory.buf is not None
    memory.buf[:16] = np.array([1, -2, 3, 4], "<i4").tobytes()
    path = "/v2/systemsharedmemory"
    async with serving(tmp_path, ["int32"]) as world:
        body = {"key": f"/{memory.name}", "offset": 0, "byte_size": 4096}
        assert await world.post(f"{path}/region/mine/register", body) == (200, None)
        told = [{"name": "mine", "key": f"/{memory.name}", "offset": 0, "byte_size": 4096}]
        assert await world.get(f"{path}/status") == (200, told)
        assert await world.get(f"{path}/region/mine/status") == (200, told)
        request = {
            "inputs": [{"name": "x", "datatype": "INT32", "shape": [2, 2], "parameters": place(0, 16)}],
            "outputs": [{"name": "y", "parameters": place(1024, 64)}],
        }
        status, answer = await world.infer(request, "same-int32")
        assert status == 200
        assert answer["outputs"] == [{"name": "y", "datatype": "INT32", "shape": [2, 2], "parameters": place(1024, 16)}]
        assert np.frombuffer(bytes(memory.buf[1024:1040]), "<i4").tolist() == [1, -2, 3, 4]
        assert await world.post(f"{path}/region/mine/unregister", b"") == (200, None)
        assert await world.get(f"{path}/status") == (200, [])
        status, answer = await world.infer(request, "same-int32")
        assert (status, answer["error"]) == (404, "Unable to find shared memory region: 'mine'")


async def test_what_cannot_be_registered_or_named(tmp_path: Path, memory: SharedMemory) -> None:
    path = "/v2/systemsharedmemory/region/mine"
    key = {"key": f"/{memory.name}"}
    async with serving(tmp_path, ["int32"]) as world:
        for body, status, words in (
            ({}, 400, "Unable to parse 'key': expected text, got none"),
            (key, 400, "Unable to parse 'byte_size': expected an integer, got none"),
            ({**key, "byte_size": -1}, 400, "Unable to parse 'byte_size'"),
            ({**key, "byte_size": 4096, "offset": "0"}, 400, "Unable to parse 'offset'"),
            ({**key, "byte_size": 10**9}, 400, "failed to register shared memory region 'mine'"),
            ({"key": "/../etc/passwd", "byte_size": 1}, 400, "cannot register shared memory region 'mine'"),
            ({"key": "/carryover-no-such", "byte_size": 1}, 400, "Unable to open shared memory region: '/carryover-no"),
        ):
            told, answer = await world.post(f"{path}/register", body)
            assert told == status and answer["error"].startswith(words)
        await world.post(f"{path}/register", {**key, "byte_size": 64})
        told, answer = await world.post(f"{path}/register", {**key, "byte_size": 64})
        assert told == 400 and "already in manager" in answer["error"]
        inputs = [{"name": "x", "datatype": "INT32", "shape": [1, 1], "data": [1]}]
        for parameters, words in (
            (place(0, 65), "Invalid offset + byte size for shared memory region: 'mine'"),
            ({**place(0, 4), "classification": 1}, "Output can't set both 'shared_memory_region' and 'classification'"),
            ({**place(0, 4), "binary_data": True}, "Output can't set both 'shared_memory_region' and 'binary_data'"),
            ({"shared_memory_offset": 4}, "'shared_memory_offset' can not be specified without"),
        ):
            outputs = [{"name": "y", "parameters": parameters}]
            told, answer = await world.infer({"inputs": inputs, "outputs": outputs}, "same-int32")
            assert told == 400 and answer["error"].startswith(words)
        outputs = [{"name": "y", "parameters": place(0, 3)}]
        told, answer = await world.infer({"inputs": inputs, "outputs": outputs}, "same-int32")
        assert told == 500 and "should be at least 4 bytes to hold the results" in answer["error"]


async def test_callers_of_other_machines_may_name_none(
    tmp_path: Path, memory: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.http.caller.is_loopback", lambda host: host != "127.0.0.1")
    elsewhere = {"error": "shared memory: expected a caller on this machine, got one elsewhere"}
    async with serving(tmp_path, ["int32"]) as world:
        path = "/v2/systemsharedmemory"
        body = {"key": f"/{memory.name}", "byte_size": 64}
        assert await world.post(f"{path}/region/mine/register", body) == (403, elsewhere)
        assert await world.post(f"{path}/unregister", b"") == (403, elsewhere)
        assert await world.get(f"{path}/status") == (403, elsewhere)
        world.regions.register("mine", f"/{memory.name}", 0, 64)
        inputs = [{"name": "x", "datatype": "INT32", "shape": [1, 1], "parameters": place(0, 4)}]
        assert await world.infer({"inputs": inputs}, "same-int32") == (403, elsewhere)


async def test_pages_in_a_browser_of_this_machine_may_name_none(tmp_path: Path, memory: SharedMemory) -> None:
    async with serving(tmp_path) as world:
        body = {"key": f"/{memory.name}", "byte_size": 64}
        path = "/v2/systemsharedmemory/region/mine/register"
        assert (await world.post(path, body, origin="http://example.com"))[0] == 403
        assert (await world.post(path, body))[0] == 200


async def test_shared_memory_may_be_off(tmp_path: Path) -> None:
    async with serving(tmp_path, shared_memory=False) as world:
        status, answer = await world.get("/v2/systemsharedmemory/status")
        assert status == 501 and answer["error"].startswith("Client shared memory is disabled.")
        assert "system_shared_memory" not in (await world.get("/v2"))[1]["extensions"]
