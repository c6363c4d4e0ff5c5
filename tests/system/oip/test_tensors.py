"""Tensors of every type, empty ones, strings and classes: L0_infer_zero, L0_string_io, L0_nullchar_string."""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

from bench.oip_models import NUMBERS
from tests.system.oip.doors import Door, GrpcDoor, HttpDoor, Refusal, begin, inputs_of
from tests.system.oip.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip


def random_tensors(*shape: int) -> dict[str, npt.NDArray[Any]]:
    """Any bits of every type that mean a number."""
    rng = np.random.default_rng(5)
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name in NUMBERS:
        dtype = np.dtype(DTYPES[name])
        if dtype.kind == "f":
            tensors[name] = rng.normal(size=shape).astype(dtype)
        elif dtype.kind == "b":
            tensors[name] = rng.random(shape) < 0.5
        else:
            bounds = np.iinfo(dtype)
            tensors[name] = rng.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)
    return tensors


@pytest.mark.parametrize("shape", [(1, 5), (3, 2), (1, 0), (4, 0)], ids=str)
def test_numbers_of_every_type_come_back(door: Door, shape: tuple[int, int]) -> None:
    tensors = random_tensors(*shape)
    answer = door.infer("identity-numbers", {f"IN_{name}": array for name, array in tensors.items()})
    assert set(answer.outputs) == {f"OUT_{name}" for name in tensors}
    for name, array in tensors.items():
        out = answer.outputs[f"OUT_{name}"]
        assert (out.dtype, out.shape) == (array.dtype, shape), name
        np.testing.assert_array_equal(out, array, strict=True)


def test_no_rows_are_no_request(door: Door) -> None:
    with pytest.raises(Refusal):
        door.infer("identity", {"IN_FP32": np.zeros((0, 4), np.float32)})
    assert door.infer("identity", {"IN_FP32": np.ones((1, 4), np.float32)}).outputs["OUT_FP32"].tolist() == [[1.0] * 4]


def test_numbers_that_are_none_come_back_as_they_are(door: Door) -> None:
    odd = np.array([[np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4028235e38]], np.float32)
    out = door.infer("identity", {"IN_FP32": odd}).outputs["OUT_FP32"]
    assert out.tobytes() == odd.tobytes()


def test_only_the_outputs_asked_for_come_and_in_that_order(door: Door) -> None:
    tensors = {f"IN_{name}": array for name, array in random_tensors(2, 3).items()}
    answer = door.infer("identity-numbers", tensors, ["OUT_INT8", "OUT_BOOL"])
    assert list(answer.outputs) == ["OUT_INT8", "OUT_BOOL"]


@pytest.mark.parametrize("length", [0, 4])
def test_bfloat16_comes_back(server: Server, length: int) -> None:
    values = np.array([[1.0, -0.5, 3.0e38, 2.0**-120]])[:, :length].astype(ml_dtypes.bfloat16)
    for library, door in ((grpc_client, GrpcDoor(server.grpc)), (http_client, HttpDoor(server.http))):
        inputs = inputs_of(library, {"IN_BF16": values})
        result = door.client.infer("identity-bfloat", inputs)
        np.testing.assert_array_equal(result.as_numpy("OUT_BF16"), values, strict=True)
        door.close()


STRINGS = ["", "plain", "nul\0inside\0", "Grüße, 世界 🦊", "\0", "x" * 10_000]


def test_strings_come_back(door: Door) -> None:
    sent = np.array([[text.encode() for text in STRINGS]], np.object_)
    out = door.infer("identity-bytes", {"IN_BYTES": sent}).outputs["OUT_BYTES"]
    assert [bytes(text) for text in out[0]] == sent[0].tolist()


def test_no_strings_come_back_as_none(door: Door) -> None:
    out = door.infer("identity-bytes", {"IN_BYTES": np.zeros((2, 0), np.object_)}).outputs["OUT_BYTES"]
    assert out.shape == (2, 0)


def test_strings_go_both_ways_as_json(server: Server) -> None:
    door = HttpDoor(server.http)
    tensor = http_client.InferInput("IN_BYTES", [1, 2], "BYTES")
    tensor.set_data_from_numpy(np.array([["Grüße 世界", ""]], np.object_), binary_data=False)
    asked = [http_client.InferRequestedOutput("OUT_BYTES", binary_data=False)]
    result = door.client.infer("identity-bytes", [tensor], outputs=asked)
    assert result.get_response()["outputs"][0]["data"] == ["Grüße 世界", ""]
    door.close()


def test_numbers_go_both_ways_as_json(server: Server) -> None:
    door = HttpDoor(server.http)
    tensors = {name: array for name, array in random_tensors(2, 3).items() if name != "FP16"}
    tensors["FP16"] = np.zeros((2, 3), np.float16)
    inputs = []
    for name, array in tensors.items():
        tensor = http_client.InferInput(f"IN_{name}", [2, 3], name)
        tensor.set_data_from_numpy(array, binary_data=name == "FP16")  # which has no JSON form
        inputs.append(tensor)
    asked = [http_client.InferRequestedOutput(f"OUT_{name}", binary_data=name == "FP16") for name in tensors]
    result = door.client.infer("identity-numbers", inputs, outputs=asked)
    for name, array in tensors.items():
        np.testing.assert_array_equal(result.as_numpy(f"OUT_{name}"), array, err_msg=name)
    door.close()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_and_answers_are_understood(server: Server, algorithm: str) -> None:
    values = np.arange(3000, dtype=np.float32).reshape(3, 1000)
    http = HttpDoor(server.http)
    result = http.client.infer(
        "identity",
        inputs_of(http_client, {"IN_FP32": values}),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(result.as_numpy("OUT_FP32"), values)
    http.close()
    grpc = GrpcDoor(server.grpc)
    answer = grpc.infer("identity", {"IN_FP32": values}, compression_algorithm=algorithm)
    np.testing.assert_array_equal(answer.outputs["OUT_FP32"], values)
    grpc.close()


@pytest.mark.parametrize("library", [grpc_client, http_client], ids=["grpc", "http"])
def test_the_best_classes_are_told(server: Server, library: Any) -> None:
    door = GrpcDoor(server.grpc) if library is grpc_client else HttpDoor(server.http)
    scores = np.array([[0.5, 4.0, -1.0, 2.0], [9.0, 1.0, 2.0, 3.0]], np.float32)
    asked = [library.InferRequestedOutput("OUT_FP32", class_count=2)]
    result = door.client.infer("identity", inputs_of(library, {"IN_FP32": scores}), outputs=asked)
    told = [[text.decode().split(":") for text in row] for row in result.as_numpy("OUT_FP32")]
    ranks = [[(float(value), int(place)) for value, place in row] for row in told]
    assert ranks == [[(4.0, 1), (2.0, 3)], [(9.0, 0), (3.0, 3)]]
    door.close()


def test_a_large_tensor_comes_back(door: Door) -> None:
    values = np.random.default_rng(1).normal(size=(2, 200_000)).astype(np.float32)
    np.testing.assert_array_equal(door.infer("identity", {"IN_FP32": values}).outputs["OUT_FP32"], values)


def test_rows_of_different_widths_at_once_come_back(grpc_door: GrpcDoor) -> None:
    sent = [np.full((1 + i % 3, 1 + i % 4), i, np.float32) for i in range(40)]
    calls = [begin(grpc_door.client, "identity", {"IN_FP32": values}) for values in sent]
    for values, call in zip(sent, calls, strict=True):
        np.testing.assert_array_equal(call.receive().outputs["OUT_FP32"], values, strict=True)
