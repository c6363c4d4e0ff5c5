"""What the protocol tells of the server, its models and the repository."""

import asyncio
import json
from typing import Any

import numpy as np

from service.oip.messages import InferRequest
from tests.service.oip.world import (
    Entry,
    World,
    accumulator,
    make_world,
    outputs_of,
    tensor,
)


async def test_the_server_advertises_what_it_has(world: World) -> None:
    metadata = world.core.server_metadata()
    assert (metadata["name"], metadata["version"]) == ("carryover", "1.2.3")
    extensions = metadata["extensions"]
    assert isinstance(extensions, list)
    assert {"sequence", "statistics", "classification"} <= set(extensions)
    assert not {"system_shared_memory", "cuda_shared_memory", "trace", "logging"} & set(extensions)


async def test_metadata_tells_the_inputs_as_clients_send_them() -> None:
    world = make_world(asyncio.get_running_loop(), accumulator(1), accumulator(3))
    assert world.core.model_metadata("sums") == {
        "name": "sums",
        "versions": ["1", "3"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "values", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "scale", "datatype": "FP32", "shape": [-1, 1]},
        ],
        "outputs": [
            {"name": "total", "datatype": "FP32", "shape": [-1, 1]},
            {"name": "count", "datatype": "INT64", "shape": [-1]},
        ],
    }


async def test_a_configuration_says_how_a_model_is_batched(world: World) -> None:
    config = world.core.model_config("sums")
    assert config["sequence_batching"] == {
        "max_sequence_idle_microseconds": 7_500_000,
        "oldest": {"max_candidate_sequences": 100},
        "state": [
            {"input_name": "total_in", "output_name": "total_out", "data_type": "TYPE_FP32", "dims": [1]},
            {"input_name": "count_in", "output_name": "count_out", "data_type": "TYPE_INT64", "dims": []},
        ],
    }
    assert "dynamic_batching" not in config
    assert config["max_batch_size"] == 16
    assert config["input"] == [
        {"name": "values", "data_type": "TYPE_FP32", "dims": [-1]},
        {"name": "scale", "data_type": "TYPE_FP32", "dims": [1]},
    ]
    stateless = world.core.model_config("same")
    assert stateless["dynamic_batching"] == {"priority_levels": 3, "default_priority_level": 2}
    assert "sequence_batching" not in stateless
    assert stateless["max_batch_size"] == 4
    assert stateless["model_transaction_policy"] == {"decoupled": False}


async def test_a_configuration_tells_inputs_that_work() -> None:
    manifest = accumulator()
    assert manifest.imported is not None
    imported = manifest.imported.model_copy(update={"examples": {"D": 3}, "shared_examples": {"scale": 2.5}})
    manifest = manifest.model_copy(update={"imported": imported})
    world = make_world(asyncio.get_running_loop(), manifest)
    parameters: Any = world.core.model_config("sums")["parameters"]
    told = json.loads(parameters["examples"]["string_value"])
    assert told == {"values": {"shape": [1, 3]}, "scale": {"shape": [1, 1], "value": 2.5}}
    values = tensor("values", np.ones(told["values"]["shape"]))
    scale = tensor("scale", np.full(told["scale"]["shape"], told["scale"]["value"]))
    start = {"sequence_id": 1, "sequence_start": True}
    response = await world.core.begin(InferRequest("sums", "", "", (values, scale), (), start))
    assert outputs_of(response)["total"] == [[7.5]]


async def test_the_index_tells_what_is_not_served_too(world: World) -> None:
    world.control.others += [Entry("late", 2, "LOADING", ""), Entry("poor", 0, "UNAVAILABLE", "no bundle")]
    assert world.core.repository_index() == [
        {"name": "late", "version": "2", "state": "LOADING", "reason": ""},
        {"name": "poor", "version": "", "state": "UNAVAILABLE", "reason": "no bundle"},
        {"name": "same", "version": "1", "state": "READY", "reason": ""},
        {"name": "sums", "version": "1", "state": "READY", "reason": ""},
    ]
    assert [entry["name"] for entry in world.core.repository_index(ready=True)] == ["same", "sums"]
