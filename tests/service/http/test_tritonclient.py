"""The protocol's own Python clients, the one that blocks and the one that does not."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as blocking
import tritonclient.http.aio as waiting
from tritonclient.utils import InferenceServerException

from tests.service.http.world import SUM, World, serving
from tests.service.tensor_models import INITIAL_TOTAL


def inputs(client: Any, values: list[float], *, binary: bool = True) -> list[Any]:
    made = [client.InferInput("values", [1, len(values)], "FP32"), client.InferInput("scale", [1], "FP32")]
    made[0].set_data_from_numpy(np.array([values], np.float32), binary_data=binary)
    made[1].set_data_from_numpy(np.ones(1, np.float32), binary_data=binary)
    return made


def drive(world: World) -> None:
    """A session of the blocking client, on a thread of its own."""
    with blocking.InferenceServerClient(world.url, concurrency=2) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(SUM)
        assert not client.is_model_ready("other") and not client.is_model_ready(SUM, "9")
        assert client.get_server_metadata()["name"] == "carryover"
        assert client.get_model_metadata(SUM)["outputs"][0]["name"] == "total"
        assert client.get_model_config(SUM)["name"] == SUM
        states = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
        assert states[SUM] == "READY" and states["broken"] == "UNAVAILABLE"
        client.load_model(SUM, headers={"Authorization": "Bearer secret"})
        client.unload_model(SUM, unload_dependents=True)
        total = INITIAL_TOTAL
        for turn, (binary, squeeze) in enumerate([(True, None), (False, None), (True, "gzip"), (False, "deflate")]):
            outputs = [blocking.InferRequestedOutput("total", binary_data=binary)] if turn % 2 else None
            answer = client.infer(
                SUM,
                inputs(blocking, [turn, 10], binary=binary),
                outputs=outputs,
                request_id=f"r{turn}",
                sequence_id="a name",
                sequence_start=turn == 0,
                sequence_end=turn == 3,
                priority=1,
                timeout=10_000_000,
                parameters={"mine": "x", "number": 3},
                request_compression_algorithm=squeeze,
                response_compression_algorithm=squeeze,
            )
            total += turn + 10
            assert answer.as_numpy("total").tolist() == [[total]]
            assert answer.get_response()["id"] == f"r{turn}"
        with pytest.raises(InferenceServerException) as refused:
            client.infer(SUM, inputs(blocking, [1]), sequence_id="a name")
        assert refused.value.status() == "400" and "must specify the START flag" in refused.value.message()
        assert client.get_inference_statistics(SUM)["model_stats"][0]["inference_stats"]["success"]["count"] == 4
        handles = [
            client.async_infer(SUM, inputs(blocking, [n]), sequence_id=n, sequence_start=True) for n in range(1, 9)
        ]
        assert [handle.get_result().as_numpy("total").item() for handle in handles] == [5 + n for n in range(1, 9)]


async def test_the_blocking_client(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        await asyncio.to_thread(drive, world)
        assert [call[0] for call in world.control.calls] == ["load", "unload"]


async def test_the_waiting_client(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, waiting.InferenceServerClient(world.url) as client:
        assert await client.is_server_live() and await client.is_model_ready(SUM)

        async def run(sequence: int) -> list[float]:
            totals = []
            for turn in range(5):
                answer = await client.infer(
                    SUM,
                    inputs(waiting, [sequence]),
                    sequence_id=sequence,
                    sequence_start=turn == 0,
                    sequence_end=turn == 4,
                )
                totals.append(answer.as_numpy("total").item())
            return totals

        told = await asyncio.gather(*(run(sequence) for sequence in range(1, 9)))
        assert told == [[INITIAL_TOTAL + sequence * turn for turn in range(1, 6)] for sequence in range(1, 9)]
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'other' is not found"):
            await client.infer("other", inputs(waiting, [1]))


@pytest.mark.parametrize("datatype", ["INT64", "BOOL", "FP16", "BYTES", "FP64"])
async def test_types_of_the_client(tmp_path: Path, datatype: str) -> None:
    dtype: Any = {"INT64": "int64", "BOOL": "bool", "FP16": "float16", "BYTES": "string", "FP64": "float64"}[datatype]
    array = {
        "INT64": np.array([[2**63 - 1, -(2**63)]]),
        "BOOL": np.array([[True, False]]),
        "FP16": np.array([[0.1, -2]], np.float16),
        "BYTES": np.array([["grün".encode(), b""]], object),
        "FP64": np.array([[0.1, 1e300]]),
    }[datatype]
    async with serving(tmp_path, [dtype]) as world, waiting.InferenceServerClient(world.url) as client:
        for binary in (True, False):
            if datatype == "FP16" and not binary:
                continue  # the client itself refuses
            given = waiting.InferInput("x", [1, 2], datatype)
            given.set_data_from_numpy(array, binary_data=binary)
            for binary_output in (True, False):
                outputs = [waiting.InferRequestedOutput("y", binary_data=binary_output)]
                answer = await client.infer(f"same-{dtype}", [given], outputs=outputs)
                got = answer.as_numpy("y")
                if datatype == "BYTES" and not binary_output:
                    got = np.array([[text.encode() for text in row] for row in got], object)
                assert got.tolist() == array.tolist() and got.dtype == array.dtype
