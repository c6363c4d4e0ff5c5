"""The calls of the protocol over HTTP, as any client would make them."""

from pathlib import Path
from typing import Any

import pytest

from tests.service.http.world import SUM, output, serving, step
from tests.service.tensor_models import INITIAL_TOTAL


async def test_a_sequence_adds_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        status, first = await world.infer(step([1, 2], start=True, id="a"))
        assert (status, first["id"], first["model_name"], first["model_version"]) == (200, "a", SUM, "1")
        assert output(first, "total") == [INITIAL_TOTAL + 3] and output(first, "count") == [1]
        _, second = await world.infer(step([10], end=True))
        assert output(second, "total") == [INITIAL_TOTAL + 13] and "id" not in second
        status, gone = await world.infer(step([10]))
        assert status == 400 and "must specify the START flag" in gone["error"]


async def test_callers_have_sequences_of_their_own(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        callers: tuple[tuple[dict[str, str], int], ...] = (
            ({"carryover_caller": "a" * 16}, 1),
            ({"carryover_caller": "b" * 128}, 2),
            ({}, 3),
        )
        for caller, value in callers:
            await world.infer(step([value], "same", start=True), **caller)
        for caller, value in callers:
            _, answer = await world.infer(step([10], "same"), **caller)
            assert output(answer, "total") == [INITIAL_TOTAL + value + 10]


@pytest.mark.parametrize("caller", ["x" * 129, "x" * 15, "", "é" * 16])
async def test_a_caller_that_calls_itself_something_impossible_is_refused(tmp_path: Path, caller: str) -> None:
    async with serving(tmp_path) as world:
        status, answer = await world.infer(step([1], start=True), carryover_caller=caller)
        assert status == 400 and "printable ASCII" in answer["error"]


async def test_what_is_asked_for_comes_and_nothing_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        asked = [{"name": "count"}, {"name": "total_out"}]
        _, answer = await world.infer(step([1], start=True, outputs=asked))
        names = [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in answer["outputs"]]
        assert names == [("count", "INT64", [1]), ("total_out", "FP32", [1, 1])]
        assert output(answer, "total_out") == [INITIAL_TOTAL + 1]


async def test_health_and_descriptions(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        assert await world.get("/v2/health/live") == (200, {"live": True})
        assert await world.get("/v2/health/ready") == (200, {"ready": True})
        status, server = await world.get("/v2")
        assert status == 200 and server["name"] == "carryover" and "binary_tensor_data" in server["extensions"]
        for path in (f"/v2/models/{SUM}", f"/v2/models/{SUM}/versions/1"):
            status, model = await world.get(path)
            assert status == 200 and model["name"] == SUM and model["versions"] == ["1"]
            assert model["inputs"][0] == {"name": "values", "datatype": "FP32", "shape": [-1, -1]}
            assert await world.get(f"{path}/ready") == (200, {"name": SUM, "ready": True})
            status, config = await world.get(f"{path}/config")
            assert status == 200 and "sequence_batching" in config and "dynamic_batching" not in config


async def test_statistics_of_one_and_of_all(tmp_path: Path) -> None:
    async with serving(tmp_path, ["int32"]) as world:
        for value in (1, 2, 3):
            await world.infer(step([value], start=value == 1))
        _, mine = await world.get(f"/v2/models/{SUM}/stats")
        (counted,) = mine["model_stats"]
        assert counted["inference_stats"]["success"]["count"] == 3
        _, everyones = await world.get("/v2/models/stats")
        assert {entry["name"] for entry in everyones["model_stats"]} == {SUM, "same-int32"}


async def test_the_repository(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        ready = {"name": SUM, "version": "1", "state": "READY", "reason": ""}
        assert await world.post("/v2/repository/index", {"ready": True}) == (200, [ready])
        status, entries = await world.post("/v2/repository/index", b"")
        assert status == 200 and [entry["state"] for entry in entries] == ["UNAVAILABLE", "READY"]
        path = f"/v2/repository/models/{SUM}"
        world.control.secret = "secret"
        for call, authorization in (("load", "Bearer other"), ("unload", "Basic secret")):
            config = {"parameters": {"config": "{}"}}
            status, refused = await world.post(f"{path}/{call}", config, authorization=authorization)
            assert status == 403 and refused["error"].startswith("model load / unload: expected the admin token as")
        status, refused = await world.post(f"{path}/load", config, authorization="Bearer secret")
        assert (status, refused["error"][:23]) == (501, "load parameter 'config'")
        assert world.control.calls == []
        assert await world.post(f"{path}/load", b"", authorization="Bearer secret") == (200, None)
        body = {"parameters": {"unload_dependents": True}}
        assert await world.post(f"{path}/unload", body, authorization="Bearer secret") == (200, None)
        assert world.control.calls == [("load", SUM, "secret"), ("unload", SUM, "secret")]


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/v2/models/other", 404, "Request for unknown model: 'other' is not found"),
        ("GET", f"/v2/models/{SUM}/versions/9", 404, f"Request for unknown model: '{SUM}' version 9 is not found"),
        ("GET", "/v2/models/other/config", 404, "Request for unknown model"),
        ("GET", "/v2/models/other/stats", 404, "Request for unknown model"),
        ("GET", "/v2/models/other/ready", 400, "Model version not ready"),
        ("GET", f"/v2/models/{SUM}/infer", 405, "Method Not Allowed"),
        ("POST", f"/v2/models/{SUM}/ready", 405, "Method Not Allowed"),
        ("GET", "/v2/repository/index", 405, "Method Not Allowed"),
        ("POST", "/v2/repository/r/index", 501, "'repository_name' specification is not supported"),
        ("POST", "/v2/repository/r/models/m/load", 501, "'repository_name' specification is not supported"),
        ("GET", "/v2/models/sum/versions/0", 400, "failed to get model version from specified version string '0'"),
        ("GET", "/v2/nothing", 404, "Not Found"),
        ("GET", "/", 404, "Not Found"),
        ("GET", "/v2/models/a/b/c/d", 404, "Not Found"),
    ],
)
async def test_what_is_not_there(tmp_path: Path, method: str, path: str, status: int, error: str) -> None:
    async with serving(tmp_path) as world, world.session.request(method, f"http://{world.url}{path}") as response:
        assert response.status == status
        assert response.content_type == "application/json"
        assert (await response.json())["error"].startswith(error)


def values(**changes: Any) -> dict[str, Any]:
    body = step([1], start=True)
    body["inputs"][0].update(changes)
    return body


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "Unable to parse 'inputs': expected an array, got none"),
        (b"{", "failed to parse the request JSON buffer: Expecting"),
        (b"[]", "failed to parse the request JSON buffer: expected an object"),
        (b"\xff", "failed to parse the request JSON buffer"),
        (b"[" * 100_000, "failed to parse the request JSON buffer: nested too deeply"),
        (b'{"inputs": %s}' % (b"9" * 5000), "failed to parse the request JSON buffer"),
        ({"inputs": {}}, "Unable to parse 'inputs': expected an array, got an object"),
        ({"inputs": [1]}, "Unable to parse 'inputs': expected an array of objects, got 1"),
        ({**values(), "id": 7}, "Unable to parse 'id': expected text, got 7"),
        ({**values(), "outputs": "all"}, "Unable to parse 'outputs': expected an array, got text"),
        ({**values(), "outputs": [{}]}, "Unable to parse 'name': expected text, got none"),
        ({**values(), "parameters": []}, "Unable to parse 'parameters': expected an object, got an array"),
        ({**values(), "parameters": {"x": None}}, "parameter 'x' has invalid type"),
        ({**values(), "parameters": {"x": 2**64}}, "Unable to parse 'x': expected an integer of 64 bits"),
        ({**values(), "parameters": {"binary_data_output": 1}}, "Unable to parse 'binary_data_output'"),
        ({**values(), "parameters": {"triton_x": 1}}, "parameter keys starting with 'triton_' are reserved"),
        ({**values(), "outputs": [{"name": "total", "parameters": {"classification": 0}}]}, "Unable to parse 'class"),
        ({**values(), "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "Unable to parse 'binary_data'"),
        (values(name=1), "Unable to parse 'name': expected text, got 1"),
        (values(datatype="FLOAT"), "inference input 'values' data-type is 'FLOAT'"),
        (values(shape="1"), "Unable to parse 'shape': expected an array, got text"),
        (values(shape=[-1, 1]), "Unable to parse 'shape': expected integers from 0 to 2**63 - 1, got -1"),
        (values(shape=[True]), "Unable to parse 'shape': expected integers from 0 to 2**63 - 1, got True"),
        (values(shape=[1.0]), "Unable to parse 'shape': expected integers"),
        (values(shape=[1] * 40), "Unable to parse 'shape': expected at most 32 dimensions, got 40"),
        (values(shape=[2**62, 2**62]), "unexpected shape for input 'values'"),
        (values(shape=[1, 2]), "Unable to parse 'data' of input 'values': Shape does not match true shape"),
        (values(data="text"), "Unable to parse 'data' of input 'values': expected an array, got str"),
        (values(parameters={"binary_data_size": 4}), "Input must set only one of the following fields: 'data'"),
        ({"inputs": [{"name": "values", "datatype": "FP32", "shape": [1, 1]}]}, "Input must set only one"),
    ],
)  # fmt: skip
async def test_a_body_that_is_not_the_protocols_is_refused(tmp_path: Path, body: Any, error: str) -> None:
    async with serving(tmp_path) as world:
        status, answer = await world.infer(body)
        assert status == 400 and answer["error"].startswith(error)
        assert world.core.num_sequences == 0


async def test_refusals_of_the_core_keep_their_words(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        cases = {
            "must specify a non-zero or non-empty correlation ID": step([1], 0, start=True),
            "must specify the START flag on the first request": step([1]),
            "invalid value type for 'sequence_id' parameter": step([1], True, start=True),
            "unexpected inference output 'other'": step([1], start=True, outputs=[{"name": "other"}]),
            "data-type is 'INT32', but model 'sum' expects 'FP32'": values(datatype="INT32"),
        }
        for words, body in cases.items():
            status, answer = await world.infer(body)
            assert status == 400 and words in answer["error"]
        status, answer = await world.post(f"/v2/models/{SUM}/versions/7/infer", step([1], start=True))
        assert status == 404 and answer["error"] == f"Request for unknown model: '{SUM}' version 7 is not found"


@pytest.mark.parametrize("body", [b"", b"{", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}])
async def test_that_there_is_no_such_model_comes_before_what_is_wrong_with_a_body(tmp_path: Path, body: Any) -> None:
    async with serving(tmp_path) as world:
        status, answer = await world.infer(body, "other")
        assert (status, answer["error"]) == (404, "Request for unknown model: 'other' is not found")


async def test_our_own_fault_shows_nothing_of_the_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as world:
        monkeypatch.setattr(world.core, "server_metadata", lambda: 1 / 0)
        assert await world.get("/v2") == (500, {"error": "the service failed; its log says why"})
        assert (await world.get("/v2/health/live"))[0] == 200
