"""Requests that are wrong, and what they are told: L0_input_validation, L0_parameters and a little L0_http_fuzz."""

import http.client
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.system.oip.doors import ANSWER_TIMEOUT_S, Door, GrpcDoor, Refusal, inputs_of, numbers, step, whole
from tests.system.oip.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

Fresh = Callable[[], int]
FLOATS = np.arange(8, dtype=np.float32)[None]


def refusal_of(door: Door, model: str, arrays: dict[str, Any], **options: Any) -> str:
    """What a request is told that is refused."""
    with pytest.raises(Refusal) as refused:
        door.infer(model, arrays, **options)
    assert refused.value.status in (None, "400", "StatusCode.INVALID_ARGUMENT"), refused.value.status
    return refused.value.message


def test_missing_inputs_are_named(door: Door, fresh: Fresh) -> None:
    assert refusal_of(door, "accumulator-slow", numbers(1), sequence_id=fresh(), sequence_start=True) == (
        "expected 2 inputs but got 1 inputs for model 'accumulator-slow'. Got input(s) ['INPUT'], but missing required "
        "input(s) ['WORK']. Please provide all required input(s)."
    )


def test_no_inputs_at_all_are_refused(grpc_door: GrpcDoor) -> None:
    assert refusal_of(grpc_door, "identity", {}) == (
        "expected 1 inputs but got 0 inputs for model 'identity'. Got input(s) [], but missing required input(s) "
        "['IN_FP32']. Please provide all required input(s)."
    )


def test_an_unknown_input_is_named(door: Door) -> None:
    assert "'OTHER'" in refusal_of(door, "identity", {"OTHER": FLOATS})


@pytest.mark.parametrize("pool", ["total_pool", "read_slots", "write_slots", "steps_pool"])
def test_what_is_inside_cannot_be_given(door: Door, fresh: Fresh, pool: str) -> None:
    arrays = {"INPUT": whole(1), pool: whole(1)}
    assert pool in refusal_of(door, "accumulator", arrays, sequence_id=fresh(), sequence_start=True)


def test_another_type_is_refused(door: Door) -> None:
    assert refusal_of(door, "identity", {"IN_FP32": FLOATS.astype(np.int32)}) == (
        "inference input 'IN_FP32' data-type is 'INT32', but model 'identity' expects 'FP32'"
    )


@pytest.mark.parametrize("shape", [(1, 2), (1,), (1, 1, 2), (1, 1, 1, 1)], ids=str)
def test_another_shape_is_refused(door: Door, fresh: Fresh, shape: tuple[int, ...]) -> None:
    arrays = {"INPUT": np.zeros(shape, np.int64)}
    told = refusal_of(door, "accumulator", arrays, sequence_id=fresh(), sequence_start=True)
    sizes = ",".join(map(str, shape))
    assert told == f"unexpected shape for input 'INPUT' for model 'accumulator'. Expected [-1,1], got [{sizes}]."


def test_more_rows_than_a_run_may_have_are_refused(grpc_door: GrpcDoor) -> None:
    most = grpc_door.client.get_model_config("identity").config.max_batch_size
    assert most >= 1
    told = refusal_of(grpc_door, "identity", {"IN_FP32": np.zeros((most + 1, 1), np.float32)})
    assert told == f"inference request batch-size must be <= {most} for 'identity'"
    rows = np.arange(most, dtype=np.float32)[:, None]
    assert np.array_equal(grpc_door.infer("identity", {"IN_FP32": rows}).outputs["OUT_FP32"], rows)


def misdeclared(array: Any, shape: list[int], model: str, name: str, server: Server) -> str:
    """What a request is told whose tensor has another shape than it says."""
    door = GrpcDoor(server.grpc)
    (tensor,) = inputs_of(grpc_client, {name: array})
    tensor.set_shape(shape)
    with pytest.raises(InferenceServerException) as refused:
        door.client.infer(model, [tensor])
    door.close()
    return str(refused.value)


@pytest.mark.parametrize("length", [6, 10])
def test_another_number_of_bytes_is_refused(server: Server, length: int) -> None:
    told = misdeclared(np.zeros((1, length), np.float32), [1, 8], "identity", "IN_FP32", server)
    assert f"input byte size mismatch for input 'IN_FP32' for model 'identity'. Expected 32, got {4 * length}" in told


def test_too_few_and_too_many_strings_are_refused(server: Server) -> None:
    for length, expected in (
        (14, "expected 16 string elements for inference input 'IN_BYTES' for model 'identity-bytes', got 14"),
        (18, "unexpected number of string elements 17 for inference input 'IN_BYTES' for model 'identity-bytes', "
             "expecting 16"),
    ):  # fmt: skip
        strings = np.array([[str(i) for i in range(length)]], np.object_)
        assert expected in misdeclared(strings, [1, 16], "identity-bytes", "IN_BYTES", server)


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    """The protocol's calls without tritonclient's own checks."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def raw(model: str = "identity", **fields: Any) -> Any:
    """A request for two numbers back."""
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="IN_FP32", datatype="FP32", shape=[1, 2])
    return request


def raw_refusal(stub: Any, request: Any, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request, timeout=ANSWER_TIMEOUT_S)
    assert refused.value.code() == code, refused.value.details()
    return str(refused.value.details())


def test_typed_contents_are_taken_and_answered_raw(stub: Any) -> None:
    request = raw()
    request.inputs[0].contents.fp32_contents.extend([1.5, 2.5])
    response = stub.ModelInfer(request, timeout=ANSWER_TIMEOUT_S)
    assert list(response.raw_output_contents) == [np.array([1.5, 2.5], np.float32).tobytes()]
    assert not response.outputs[0].HasField("contents")


def test_typed_and_raw_contents_together_are_refused(stub: Any) -> None:
    request = raw()
    request.inputs[0].contents.fp32_contents.extend([1.5, 2.5])
    request.raw_input_contents.append(bytes(8))
    raw_refusal(stub, request)


def test_contents_of_another_type_or_number_are_refused(stub: Any) -> None:
    for field, values in (("int_contents", [1, 2]), ("fp32_contents", [1.0]), ("fp32_contents", [1.0] * 3)):
        request = raw()
        getattr(request.inputs[0].contents, field).extend(values)
        assert "IN_FP32" in raw_refusal(stub, request)


def test_raw_contents_for_nobody_and_missing_ones_are_refused(stub: Any) -> None:
    for count in (0, 2):
        request = raw()
        request.raw_input_contents.extend([bytes(8)] * count)
        raw_refusal(stub, request)


@pytest.mark.parametrize("content", [b"\x01", b"\x05\0\0\0abc", b"\xff\xff\xff\xffabc", b"\0\0\0\0\x01\0"])
def test_strings_that_end_too_early_are_refused(stub: Any, content: bytes) -> None:
    request = service_pb2.ModelInferRequest(model_name="identity-bytes")
    request.inputs.add(name="IN_BYTES", datatype="BYTES", shape=[1, 2])
    request.raw_input_contents.append(content)
    assert "IN_BYTES" in raw_refusal(stub, request)


@pytest.mark.parametrize("shape", [[1, -2], [-1, -2], [2**62, 2**62], [2**63 - 1, 2], [1 << 32, 1 << 32]], ids=str)
def test_impossible_shapes_are_refused(stub: Any, shape: list[int]) -> None:
    request = raw()
    request.inputs[0].shape[:] = shape
    request.raw_input_contents.append(bytes(8))
    raw_refusal(stub, request)


@pytest.mark.parametrize("datatype", ["", "FLOAT", "fp32", "TYPE_FP32", "\0"])
def test_unknown_types_are_refused(stub: Any, datatype: str) -> None:
    request = raw()
    request.inputs[0].datatype = datatype
    request.raw_input_contents.append(bytes(8))
    raw_refusal(stub, request)


def test_an_input_twice_is_refused(stub: Any) -> None:
    request = raw()
    request.inputs.add(name="IN_FP32", datatype="FP32", shape=[1, 2])
    request.raw_input_contents.extend([bytes(8), bytes(8)])
    raw_refusal(stub, request)


def test_unknown_models_and_versions_are_told_so(stub: Any, door: Door) -> None:
    for model, version, told in (
        ("nosuch", "", "Request for unknown model: 'nosuch' is not found"),
        ("nosuch", "3", "Request for unknown model: 'nosuch' is not found"),
        ("identity", "17", "Request for unknown model: 'identity' version 17 is not found"),
        ("../identity", "", "Request for unknown model: '../identity' is not found"),
        ("", "", "Request for unknown model: '' is not found"),
    ):
        assert raw_refusal(stub, raw(model, model_version=version), grpc.StatusCode.NOT_FOUND) == told
    with pytest.raises(Refusal, match="Request for unknown model: 'nosuch' is not found"):
        door.infer("nosuch", {"IN_FP32": FLOATS})
    for version in ("x", "-1", "1.0", "99999999999999999999"):
        raw_refusal(stub, raw(model_version=version))


def with_parameter(name: str, field: str, value: Any) -> Any:
    request = raw("accumulator")
    del request.inputs[:]
    request.inputs.add(name="INPUT", datatype="INT64", shape=[1, 1]).contents.int64_contents.append(1)
    request.parameters["sequence_id"].int64_param = 1
    request.parameters["sequence_start"].bool_param = True
    request.parameters["sequence_end"].bool_param = True
    setattr(request.parameters[name], field, value)
    return request


@pytest.mark.parametrize(
    ("name", "field", "value", "told"),
    [
        ("sequence_id", "bool_param", True, "for 'sequence_id' parameter, expected int64_param or string_param."),
        ("sequence_id", "double_param", 1.0, "for 'sequence_id' parameter, expected int64_param or string_param."),
        ("sequence_start", "int64_param", 1, "for 'sequence_start' parameter, expected bool_param."),
        ("sequence_end", "string_param", "true", "for 'sequence_end' parameter, expected bool_param."),
        ("timeout", "string_param", "10", "for 'timeout' parameter, expected int64_param."),
    ],
)
def test_parameters_of_another_type_are_refused(stub: Any, name: str, field: str, value: Any, told: str) -> None:
    assert raw_refusal(stub, with_parameter(name, field, value)) == f"invalid value type {told}"


def test_reserved_parameters_are_refused(stub: Any) -> None:
    for name in ("triton_final_response", "triton_injected_via_header", "triton_"):
        assert "reserved" in raw_refusal(stub, with_parameter(name, "bool_param", True))
    stub.ModelInfer(with_parameter("triton_enable_empty_final_response", "bool_param", True))


@pytest.mark.parametrize("field", ["uint64_param", "int64_param"])
def test_a_priority_may_have_or_lack_a_sign(stub: Any, field: str) -> None:
    stub.ModelInfer(with_parameter("priority", field, 1))


def test_parameters_of_ones_own_are_let_through(door: Door, fresh: Fresh) -> None:
    for parameters in ({"key": "value"}, {"key": 1}, {"key": 123.5}, {"key": True}):
        assert step(door, "accumulator", 2, fresh(), start=True, end=True, parameters=parameters) == (2, 1)


def test_a_message_that_is_too_large_is_refused_and_no_more(door: Door) -> None:
    with pytest.raises(Refusal):
        door.infer("identity", {"IN_FP32": np.zeros((1, 2_000_000), np.float32)})


def test_the_door_stays_open_after_a_message_that_was_too_large(server: Server) -> None:
    door = GrpcDoor(server.grpc)
    with pytest.raises(Refusal):
        door.infer("identity", {"IN_FP32": np.zeros((1, 2_000_000), np.float32)})
    assert np.array_equal(door.infer("identity", {"IN_FP32": FLOATS}).outputs["OUT_FP32"], FLOATS)
    door.close()


def post(server: Server, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(server.http, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("POST", path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


GOOD = json.dumps(
    {"inputs": [{"name": "IN_FP32", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2.5]}], "id": "x"}
).encode()


def test_garbage_over_http_is_refused_in_the_protocols_form(server: Server) -> None:
    rng = random.Random(8)
    path = "/v2/models/identity/infer"
    assert post(server, path, GOOD)[0] == 200
    refused = 0
    for _ in range(150):
        body = bytearray(GOOD)
        for _ in range(rng.randrange(1, 5)):
            place = rng.randrange(len(body))
            choice = rng.randrange(3)
            if choice == 0:
                body[place] = rng.randrange(256)
            elif choice == 1:
                del body[place : place + rng.randrange(1, 9)]
            else:
                body[place:place] = rng.choice([b"[", b"{", b"null", b"-1", b"1e999", b'"', b"\xff", b"NaN"])
        headers = {} if rng.random() < 0.7 else {"Inference-Header-Content-Length": str(rng.randrange(-5, 200))}
        status, told = post(server, path, bytes(body), headers)
        assert status == 200 or 400 <= status < 500, (status, told, bytes(body))
        if status != 200:
            refused += 1
            assert isinstance(json.loads(told)["error"], str)
    assert refused > 50
    assert post(server, path, GOOD)[0] == 200
