"""Every call of the protocol, as L0_grpc's and the server status tests make them, and statistics that are true."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as aio_client
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio_client
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.system.oip.doors import Door, GrpcDoor, Refusal, answer_of, begin, counted, inputs_of, numbers, step
from tests.system.oip.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

Fresh = Callable[[], int]


@pytest.fixture(params=["grpc", "http"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    """Tritonclient itself; what the gRPC one gives is turned into the dictionaries that the HTTP one gives."""
    library, address = (grpc_client, server.grpc) if request.param == "grpc" else (http_client, server.http)
    opened = library.InferenceServerClient(address)
    yield opened
    opened.close()


def told(client: Any, call: str, *arguments: Any) -> Any:
    """Make a call and give its answer as a dictionary."""
    as_json = {"as_json": True} if isinstance(client, grpc_client.InferenceServerClient) else {}
    return getattr(client, call)(*arguments, **as_json)


def test_the_server_lives_and_is_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()


def test_served_models_are_ready_and_no_others(client: Any) -> None:
    assert client.is_model_ready("accumulator")
    assert client.is_model_ready("accumulator", "1")
    assert not client.is_model_ready("accumulator", "2")
    assert not client.is_model_ready("nosuch")


def test_the_server_says_what_it_can_do(client: Any) -> None:
    metadata = told(client, "get_server_metadata")
    assert metadata["name"] and metadata["version"]
    for needed in ("sequence", "classification", "binary_tensor_data", "statistics", "model_configuration"):
        assert needed in metadata["extensions"]
    for lacking in ("cuda_shared_memory", "trace", "logging"):
        assert lacking not in metadata["extensions"]


def test_models_describe_themselves(client: Any) -> None:
    metadata = told(client, "get_model_metadata", "accumulator-slow")
    assert (metadata["name"], metadata["versions"]) == ("accumulator-slow", ["1"])
    inputs = {
        entry["name"]: (entry["datatype"], [int(size) for size in entry["shape"]]) for entry in metadata["inputs"]
    }
    outputs = {entry["name"]: [int(size) for size in entry["shape"]] for entry in metadata["outputs"]}
    assert inputs == {"INPUT": ("INT64", [-1, 1]), "WORK": ("FP32", [-1, 1])}
    assert outputs == {"OUTPUT": [-1, 1], "INDEX": [-1, 1]}


def test_free_sizes_are_minus_one(client: Any) -> None:
    (entry,) = told(client, "get_model_metadata", "identity")["inputs"]
    assert [int(size) for size in entry["shape"]] == [-1, -1]


def configuration(client: Any, model: str) -> Any:
    found = told(client, "get_model_config", model)
    return found.get("config", found)  # gRPC has it one level down


def test_models_with_state_are_configured_for_sequences(client: Any) -> None:
    config = configuration(client, "accumulator")
    assert config["max_batch_size"] >= 1
    assert "sequence_batching" in config and "dynamic_batching" not in config
    states = {state["input_name"]: state for state in config["sequence_batching"]["state"]}
    assert sorted(states) == ["steps", "total"]
    assert states["total"]["output_name"] == "total_out"
    assert states["total"]["data_type"] == "TYPE_INT64"
    assert [int(size) for size in states["total"]["dims"]] == [1]
    assert [(entry["name"], entry["data_type"]) for entry in config["input"]] == [("INPUT", "TYPE_INT64")]
    assert not config.get("model_transaction_policy", {}).get("decoupled", False)


def test_models_without_state_are_configured_for_batches(client: Any) -> None:
    config = configuration(client, "identity")
    assert "dynamic_batching" in config and "sequence_batching" not in config
    assert config["max_batch_size"] > 1


def test_a_fixed_batch_of_one_is_told(client: Any) -> None:
    assert configuration(client, "accumulator-one")["max_batch_size"] == 1


def test_the_index_lists_what_is_served(client: Any, server: Server) -> None:
    index = told(client, "get_model_repository_index")
    entries = index.get("models", []) if isinstance(index, dict) else index
    found = {entry["name"]: (entry["version"], entry["state"]) for entry in entries}
    expected = {folder.name for folder in server.repository.iterdir() if not folder.name.startswith(".")}
    assert found == {name: ("1", "READY") for name in expected}


@pytest.mark.parametrize("call", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
def test_unknown_models_are_told_so(client: Any, call: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        getattr(client, call)("nosuch")
    assert refused.value.message().startswith("Request for unknown model: 'nosuch' is not found")
    assert refused.value.status() in ("StatusCode.NOT_FOUND", "404")


def test_models_cannot_be_loaded_over_the_wire_unless_that_was_allowed(client: Any) -> None:
    for call in ("load_model", "unload_model"):
        with pytest.raises(InferenceServerException) as refused:
            getattr(client, call)("accumulator")
        assert "explicit model load / unload is not allowed" in refused.value.message()
        assert refused.value.status() in ("StatusCode.UNAVAILABLE", "503", "400")
    assert client.is_model_ready("accumulator")


def test_what_is_not_advertised_is_not_there(server: Server) -> None:
    door = GrpcDoor(server.grpc)
    for call in ("get_trace_settings", "get_log_settings", "get_cuda_shared_memory_status"):
        with pytest.raises(InferenceServerException) as refused:
            getattr(door.client, call)()
        assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
    door.close()


async def test_every_call_of_the_asyncio_clients_is_answered(server: Server, fresh: Fresh) -> None:
    async with (
        aio_client.InferenceServerClient(server.grpc) as grpc_aio,
        http_aio_client.InferenceServerClient(server.http) as http_aio,
    ):
        for client, library in ((grpc_aio, grpc_client), (http_aio, http_client)):
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("accumulator")
            assert await client.get_server_metadata()
            assert await client.get_model_metadata("accumulator")
            assert await client.get_model_config("accumulator")
            assert await client.get_model_repository_index()
            assert await client.get_inference_statistics()
            await client.get_system_shared_memory_status()
            sequence = fresh()
            for i in range(3):
                inputs = inputs_of(library, numbers(i))
                result = await client.infer(
                    "accumulator", inputs, sequence_id=sequence, sequence_start=i == 0, sequence_end=i == 2
                )
            assert counted(answer_of(result)) == (3, 3)


def test_reflection_and_health_know_of_the_service(server: Server) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        messages: Any = reflection_pb2
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = messages.ServerReflectionRequest(list_services="")
        (response,) = reflection.ServerReflectionInfo(iter([request]), timeout=10)
        names = {service.name for service in response.list_services_response.service}
        assert {"inference.GRPCInferenceService", "carryover.v1.Carryover"} <= names
        request = messages.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService")
        (response,) = reflection.ServerReflectionInfo(iter([request]), timeout=10)
        assert response.file_descriptor_response.file_descriptor_proto


# Statistics: of a model that no other test asks.


def figures(client: Any) -> dict[str, int]:
    """The counters of the model `keeper`, as whole numbers."""
    (found,) = told(client, "get_inference_statistics", "keeper")["model_stats"]
    stats, batches = found.get("inference_stats", {}), found.get("batch_stats", [])

    def of(name: str, what: str) -> int:
        return int(stats.get(name, {}).get(what, 0))

    return {
        "inferences": int(found.get("inference_count", 0)),
        "executions": int(found.get("execution_count", 0)),
        "success": of("success", "count"),
        "success_ns": of("success", "ns"),
        "fail": of("fail", "count"),
        "queue": of("queue", "count"),
        "queue_ns": of("queue", "ns"),
        "compute_ns": of("compute_infer", "ns"),
        "runs": sum(int(entry.get("compute_infer", {}).get("count", 0)) for entry in batches),
        "rows": sum(
            int(entry.get("batch_size", 0)) * int(entry.get("compute_infer", {}).get("count", 0)) for entry in batches
        ),
        "last": int(found.get("last_inference", 0)),
    }


def test_statistics_say_what_ran(client: Any, grpc_door: GrpcDoor, fresh: Fresh) -> None:
    before = figures(client)
    sequences = [fresh() for _ in range(4)]
    calls = [
        begin(grpc_door.client, "keeper", numbers(1), sequence_id=sequence, sequence_start=True)
        for sequence in sequences
    ]
    for call in calls:
        call.receive()
    wide = {"INPUT": np.ones((1, 3, 1), np.int64)}
    grpc_door.infer("keeper", wide, sequence_id=sequences[0], sequence_end=True)  # three steps
    for sequence in sequences[1:]:
        grpc_door.infer("keeper", numbers(1), sequence_id=sequence, sequence_end=True)
    for _ in range(2):
        with pytest.raises(Refusal):
            grpc_door.infer("keeper", numbers(1), sequence_id=fresh())
    after = figures(client)
    grown = {name: after[name] - before[name] for name in after}
    assert grown["success"] == 8
    assert grown["fail"] == 2
    assert grown["inferences"] == grown["rows"] == 10  # a step is a row
    assert grown["executions"] == grown["runs"]
    assert 1 <= grown["executions"] <= 10
    assert 0 < grown["compute_ns"] < grown["success_ns"]
    assert all(count >= 0 for count in grown.values()), grown
    assert after["last"] > 1_600_000_000_000  # milliseconds since 1970


def test_statistics_of_all_models_are_there_at_once(client: Any, server: Server) -> None:
    found = {entry["name"] for entry in told(client, "get_inference_statistics")["model_stats"]}
    assert found == {folder.name for folder in server.repository.iterdir() if not folder.name.startswith(".")}


def test_both_doors_tell_the_same(server: Server) -> None:
    clients = [grpc_client.InferenceServerClient(server.grpc), http_client.InferenceServerClient(server.http)]
    assert figures(clients[0]) == figures(clients[1])
    for client in clients:
        client.close()


def test_a_sequence_may_change_its_door(server: Server, door: Door, fresh: Fresh) -> None:
    sequence, other = fresh(), GrpcDoor(server.grpc)
    assert step(other, "accumulator", 1, sequence, start=True) == (1, 1)
    assert step(door, "accumulator", 2, sequence) == (3, 2)
    assert step(other, "accumulator", 3, sequence, end=True) == (6, 3)
    other.close()
