"""Requests and answers between protobuf and plain values; every type, raw and typed, against Python's struct."""

import struct
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from protos.inference import grpc_service_pb2 as pb
from service.oip.errors import OipError
from service.oip.messages import DATATYPES, InferResponse, Tensor
from service.oip.shared_memory import Regions
from service.rpc.boundary import Context
from service.rpc.oip.caller import InferenceCaller
from service.rpc.oip.tensors import fill_response, read_request

# Of each type with a field of its own: the field, struct's letter, values at its edges.
TYPED: dict[str, tuple[str, str, list[Any]]] = {
    "BOOL": ("bool_contents", "?", [True, False]),
    "INT8": ("int_contents", "b", [-(2**7), 2**7 - 1]),
    "INT16": ("int_contents", "h", [-(2**15), 2**15 - 1]),
    "INT32": ("int_contents", "i", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", "q", [-(2**63), 2**63 - 1]),
    "UINT8": ("uint_contents", "B", [0, 2**8 - 1]),
    "UINT16": ("uint_contents", "H", [0, 2**16 - 1]),
    "UINT32": ("uint_contents", "I", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", "Q", [0, 2**64 - 1]),
    "FP32": ("fp32_contents", "f", [-0.5, 2.0**100]),
    "FP64": ("fp64_contents", "d", [-0.1, 1e300]),
    "BYTES": ("bytes_contents", "", [b"", b"\0\xff " + "ß".encode()]),
}


class FakeContext:
    """A call from this machine."""

    def __init__(self, peer: str = "ipv4:127.0.0.1:5000") -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def time_remaining(self) -> None:
        return None


def caller(regions: Regions | None = None, peer: str = "ipv4:127.0.0.1:5000") -> InferenceCaller:
    return InferenceCaller(cast(Context, FakeContext(peer)), regions or Regions(enabled=False))


def read(request: pb.ModelInferRequest) -> list[Tensor]:
    return list(read_request(request, caller())[0].inputs)


def refusal(request: pb.ModelInferRequest) -> str:
    with pytest.raises(OipError) as caught:
        read_request(request, caller())
    assert caught.value.code == "invalid_argument"
    return caught.value.message


def typed(datatype: str, shape: Sequence[int], **contents: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m")
    field = request.inputs.add(name="x", datatype=datatype, shape=shape)
    field.contents.CopyFrom(pb.InferTensorContents(**contents))
    return request


def test_every_type_has_a_field_or_is_raw_alone() -> None:
    assert {*TYPED, "FP16", "BF16"} == set(DATATYPES)


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_and_raw_contents_are_the_same_tensor(datatype: str) -> None:
    field, letter, values = TYPED[datatype]
    request = typed(datatype, [2, 2], **{field: values * 2})
    raw = pb.ModelInferRequest(model_name="m")
    raw.inputs.add(name="x", datatype=datatype, shape=[2, 2])
    if letter:
        raw.raw_input_contents.append(struct.pack(f"<4{letter}", *values, *values))
    else:
        raw.raw_input_contents.append(b"".join(struct.pack("<I", len(value)) + value for value in values * 2))
    for (tensor,) in (read(request), read(raw)):
        assert (tensor.name, tensor.datatype, tensor.array.dtype) == ("x", datatype, DATATYPES[datatype])
        assert tensor.array.tolist() == [values, values]


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_types_without_a_field_are_refused_typed(datatype: str) -> None:
    assert refusal(typed(datatype, [1], fp32_contents=[1.0])) == (
        "unexpected explicit tensor data for input tensor 'x' for model 'm' of type 'FP32', expected datatype "
        f"'{datatype}'"
    )
    (tensor,) = read(typed(datatype, [0]))
    assert tensor.array.shape == (0,)


def test_elements_in_another_types_field_are_refused() -> None:
    expected = "unexpected explicit tensor data for input tensor 'x' for model 'm'"
    assert refusal(typed("INT64", [1], int_contents=[1])) == f"{expected} of type 'INT32', expected datatype 'INT64'"
    assert refusal(typed("INT32", [1], uint_contents=[1])) == f"{expected} of type 'UINT32', expected datatype 'INT32'"
    assert refusal(typed("BYTES", [1], int_contents=[1])) == f"{expected} of type 'INT32', expected datatype 'BYTES'"
    both = typed("FP32", [1], fp32_contents=[1], fp64_contents=[1])
    assert refusal(both) == f"{expected}, binary data was already supplied."


@pytest.mark.parametrize(
    ("datatype", "field", "value", "bounds"),
    [
        ("INT8", "int_contents", 128, "-128 to 127"),
        ("INT8", "int_contents", -129, "-128 to 127"),
        ("INT16", "int_contents", -32769, "-32768 to 32767"),
        ("UINT8", "uint_contents", 256, "0 to 255"),
        ("UINT16", "uint_contents", 65536, "0 to 65535"),
    ],
)
def test_what_does_not_fit_its_type_is_refused(datatype: str, field: str, value: int, bounds: str) -> None:
    message = refusal(typed(datatype, [2], **{field: [0, value]}))
    assert message == f"unexpected value for input 'x' for model 'm'. Expected {bounds} for {datatype}, got {value}"


def test_too_few_or_too_many_elements_are_refused() -> None:
    expected = "input byte size mismatch for input 'x' for model 'm'. Expected 8, got "
    assert refusal(typed("FP32", [2], fp32_contents=[1])) == expected + "4"
    assert refusal(typed("FP32", [2], fp32_contents=[1, 2, 3])) == expected + "12"
    assert refusal(typed("FP32", [2])) == expected + "0"
    assert refusal(typed("BYTES", [2], bytes_contents=[b"a"])) == (
        "expected 2 string elements for inference input 'x' for model 'm', got 1"
    )
    assert refusal(typed("INT32", [-1], int_contents=[1])).startswith("unexpected shape for input 'x' for model 'm'.")
    assert "data-type is 'INT' for model 'm'" in refusal(typed("INT", [1], int_contents=[1]))


@pytest.mark.parametrize("datatype", DATATYPES)
def test_empty_tensors_come_typed_and_raw(datatype: str) -> None:
    raw = pb.ModelInferRequest(raw_input_contents=[b""])
    raw.inputs.add(name="x", datatype=datatype, shape=[1, 0])
    for (tensor,) in (read(typed(datatype, [1, 0])), read(raw)):
        assert tensor.array.shape == (1, 0)
        assert tensor.array.dtype == DATATYPES[datatype]


def test_typed_and_raw_contents_are_not_mixed() -> None:
    request = typed("FP32", [1], fp32_contents=[1])
    request.raw_input_contents.append(b"\0\0\0\0")
    assert refusal(request) == (
        "contents field must not be specified when using raw_input_contents for 'x' for model 'm'"
    )


def test_raw_contents_are_as_many_as_their_inputs() -> None:
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="INT8", shape=[1])
    assert refusal(request) == "unable to find data for input tensor 'x' for model 'm' in request."
    request.raw_input_contents.extend([b"1", b"2"])
    assert refusal(request) == "expected 1 raw_input_contents for model 'm', got 2"


def test_raw_contents_are_taken_in_the_order_of_the_inputs() -> None:
    request = pb.ModelInferRequest(raw_input_contents=[b"\1", b"\2"])
    request.inputs.add(name="b", datatype="INT8", shape=[])
    request.inputs.add(name="a", datatype="INT8", shape=[1])
    assert [(tensor.name, tensor.array.tolist()) for tensor in read(request)] == [("b", 1), ("a", [2])]


def test_parameters_keep_their_types() -> None:
    request = pb.ModelInferRequest(model_name="m", model_version="2", id="i")
    values: dict[str, bool | int | float | str] = {
        "sequence_id": 2**63 - 1, "sequence_start": True, "priority": 2**64 - 1, "own": 0.5, "other": "text",
    }  # fmt: skip
    fields = ("int64_param", "bool_param", "uint64_param", "double_param", "string_param")
    for (key, value), field in zip(values.items(), fields, strict=True):
        setattr(request.parameters[key], field, value)
    got, _ = read_request(request, caller())
    assert dict(got.parameters) == values
    assert {key: type(value) for key, value in got.parameters.items()} == {
        key: type(value) for key, value in values.items()
    }
    assert (got.model_name, got.model_version, got.id, got.caller, got.deadline_s) == ("m", "2", "i", "", None)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sequence_id", "int64_param or string_param"),
        ("sequence_start", "bool_param"),
        ("sequence_end", "bool_param"),
        ("timeout", "int64_param"),
        ("mine", "int64_param, bool_param, or string_param"),
        ("triton_enable_empty_final_response", "bool_param"),
    ],
)
def test_parameters_of_a_type_that_they_cannot_have_are_refused(key: str, expected: str) -> None:
    request = pb.ModelInferRequest()
    request.parameters[key].uint64_param = 5
    assert refusal(request) == f"invalid value type for '{key}' parameter, expected {expected}."
    request.parameters[key].Clear()
    assert refusal(request) == f"invalid value type for '{key}' parameter, expected {expected}."


def test_whether_to_tell_of_the_end_is_true_or_false() -> None:
    request = pb.ModelInferRequest()
    field = request.parameters["triton_enable_empty_final_response"]
    field.bool_param = False
    read_request(request, caller())
    field.int64_param = 1
    expected = "invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param."
    assert refusal(request) == expected


def test_outputs_are_asked_for_by_name_and_by_classes() -> None:
    request = pb.ModelInferRequest()
    request.outputs.add(name="y")
    request.outputs.add(name="z")
    request.outputs[1].parameters["classification"].int64_param = 3
    got, places = read_request(request, caller())
    assert [(output.name, output.classification) for output in got.outputs] == [("y", 0), ("z", 3)]
    assert not places
    request.outputs[1].parameters["classification"].int64_param = 0
    assert refusal(request) == "invalid value for 'classification' parameter, expected > 0, got 0"
    request.outputs[1].parameters["classification"].string_param = "3"
    assert refusal(request) == "invalid value type for 'classification' parameter, expected int64_param"
    request.outputs[1].parameters["classification"].bool_param = True
    assert refusal(request) == "invalid value type for 'classification' parameter, expected int64_param"


@pytest.mark.parametrize("datatype", DATATYPES)
def test_answers_are_raw_whatever_their_type(datatype: str) -> None:
    if datatype == "BYTES":
        array, expected = np.array([[b"a", b""]], np.object_), struct.pack("<I", 1) + b"a" + struct.pack("<I", 0)
    else:
        array = np.array([[1, 0]], DATATYPES[datatype])
        expected = array.tobytes()
    response = InferResponse(
        "m", "3", "i", (Tensor("y", datatype, array, {"p": 1}), Tensor("z", datatype, array[:, :0])), {"q": "text"}
    )
    message = pb.ModelInferResponse()
    fill_response(message, response, {})
    assert (message.model_name, message.model_version, message.id) == ("m", "3", "i")
    assert [(out.name, out.datatype, list(out.shape)) for out in message.outputs] == [
        ("y", datatype, [1, 2]),
        ("z", datatype, [1, 0]),
    ]
    assert list(message.raw_output_contents) == [expected, b""]
    assert message.parameters["q"].string_param == "text"
    assert message.outputs[0].parameters["p"].int64_param == 1


def test_parameters_of_answers_have_the_fields_of_their_types() -> None:
    message = pb.ModelInferResponse()
    values: dict[str, bool | int | float | str] = {"a": True, "b": -1, "c": 2**64 - 1, "d": 0.5, "e": "f"}
    fill_response(message, InferResponse("m", "1", "", (), values), {})
    got = {key: field.WhichOneof("parameter_choice") for key, field in message.parameters.items()}
    assert got == {
        "a": "bool_param", "b": "int64_param", "c": "uint64_param", "d": "double_param", "e": "string_param",
    }  # fmt: skip
    assert message.parameters["c"].uint64_param == 2**64 - 1


@pytest.mark.parametrize("peer", ["ipv4:10.0.0.7:5000", "ipv6:%5Bfe80::1%5D:5000", "vsock:3:5", "", "ipv4:localhost"])
def test_callers_elsewhere_cannot_name_shared_memory(peer: str) -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype="INT8", shape=[1]).parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(OipError) as caught:
        read_request(request, caller(Regions(enabled=True), peer))
    assert caught.value.code == "permission_denied"


@pytest.mark.parametrize("peer", ["ipv4:127.0.0.1:5000", "ipv6:[::1]:5000", "ipv6:%5B::1%5D:5000", "unix:", "unix:/x"])
def test_callers_here_can(peer: str) -> None:
    request = pb.ModelInferRequest()
    field = request.inputs.add(name="x", datatype="INT8", shape=[1])
    field.parameters["shared_memory_region"].string_param = "r"
    field.parameters["shared_memory_byte_size"].int64_param = 1
    with pytest.raises(OipError) as caught:
        read_request(request, caller(Regions(enabled=True), peer))
    assert (caught.value.code, caught.value.message) == ("not_found", "Unable to find shared memory region: 'r'")
