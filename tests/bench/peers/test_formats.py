"""The bytes that are said to the peers, read back by protobuf itself and by json."""

import json
import struct

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import step_model
from bench.peers.formats import JSON_OBJECT, JSON_ROWS, OIP, PACKED, SEQUENCE, SEQUENCES, Format, fields
from protos.inference import grpc_service_pb2

STRING, INT64, FLOAT, BYTES, MESSAGE = 9, 3, 2, 12, 11
ONE, MANY = 1, 3
# As much of https://github.com/kserve/open-inference-protocol, open_inference_grpc.proto, as is spoken here.
SCHEMA = {
    "Contents": [("int64_contents", 3, INT64, MANY, ""), ("fp32_contents", 6, FLOAT, MANY, "")],
    "Tensor": [
        ("name", 1, STRING, ONE, ""),
        ("datatype", 2, STRING, ONE, ""),
        ("shape", 3, INT64, MANY, ""),
        ("contents", 5, MESSAGE, ONE, "Contents"),
    ],
    "Request": [
        ("model_name", 1, STRING, ONE, ""),
        ("inputs", 5, MESSAGE, MANY, "Tensor"),
        ("raw_input_contents", 7, BYTES, MANY, ""),
    ],
    "Response": [
        ("model_name", 1, STRING, ONE, ""),
        ("id", 3, STRING, ONE, ""),
        ("outputs", 5, MESSAGE, MANY, "Tensor"),
        ("raw_output_contents", 6, BYTES, MANY, ""),
    ],
}


def messages() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(name="oip.proto", package="oip", syntax="proto3")
    for name, members in SCHEMA.items():
        described = file.message_type.add(name=name)
        for member, number, kind, label, of in members:
            described.field.add(
                name=member, number=number, type=kind, label=label, type_name=f".oip.{of}" if of else None
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"oip.{name}")) for name in SCHEMA}


OIP_MESSAGES = messages()
REQUESTS = st.tuples(st.integers(0, 2**31), st.integers(0, 2**20), st.integers(0, 2**31))


@settings(deadline=None)
@given(REQUESTS)
def test_requests_say_session_step_and_token(request: tuple[int, int, int]) -> None:
    oip = OIP_MESSAGES["Request"].FromString(OIP.encode(*request))
    (tensor,) = oip.inputs  # type: ignore[attr-defined]
    assert (oip.model_name, tensor.datatype, list(tensor.shape)) == ("step", "INT64", [1, 3])  # type: ignore[attr-defined]
    (raw,) = oip.raw_input_contents  # type: ignore[attr-defined]
    assert tuple(np.frombuffer(raw, "<i8")) == request
    packed = wrappers_pb2.BytesValue.FromString(PACKED.encode(*request)).value
    assert struct.unpack("<3q", packed) == request
    assert json.loads(JSON_OBJECT.encode(*request)) == {"request": list(request)}
    assert json.loads(JSON_ROWS.encode(*request)) == {"requests": [list(request)]}


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(0, SEQUENCE - 1), st.integers(0, 2**31))
def test_our_own_sequences_are_those_of_the_protocol(session: int, step: int, token: int) -> None:
    message = grpc_service_pb2.ModelInferRequest.FromString(SEQUENCES.encode(session, step, token))
    parameters = {name: value.bool_param or value.int64_param for name, value in message.parameters.items()}
    flags = {"sequence_start": True} if step == 0 else {"sequence_end": True} if step == SEQUENCE - 1 else {}
    assert (message.model_name, parameters) == (step_model.NAME, {"sequence_id": session + 1} | flags)
    (tensor,) = message.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("tokens", "INT64", [1, 1])
    assert message.raw_input_contents == [struct.pack("<q", token)]


def test_answers_of_our_own_are_read_in_any_order() -> None:
    answer = grpc_service_pb2.ModelInferResponse(model_name="bench-lstm")
    for name, datatype, raw in (
        ("top_log_probs", "FP32", struct.pack("<f", -0.5)),
        ("top_tokens", "INT64", struct.pack("<q", 7)),
    ):
        answer.outputs.add(name=name, datatype=datatype, shape=[1, 1, 1])
        answer.raw_output_contents.append(raw)
    assert SEQUENCES.decode(answer.SerializeToString()) == (7, -0.5)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(-100, 0, width=32))
def test_answers_are_read_from_what_protobuf_and_json_write(token: int, log_prob: float) -> None:
    raw = struct.pack("<2f", token, log_prob)
    tensor = {"name": "answer", "datatype": "FP32", "shape": [1, 2]}
    response = OIP_MESSAGES["Response"]
    as_raw = response(model_name="step", id="a", outputs=[tensor], raw_output_contents=[raw])
    typed = tensor | {"contents": {"fp32_contents": [token, log_prob]}}
    as_typed = response(model_name="step", id="a", outputs=[typed])
    bodies: list[tuple[Format, bytes]] = [
        (OIP, as_raw.SerializeToString()),
        (OIP, as_typed.SerializeToString()),
        (PACKED, wrappers_pb2.BytesValue(value=raw).SerializeToString()),
        (JSON_OBJECT, json.dumps({"answer": [float(token), log_prob]}).encode()),
        (JSON_ROWS, json.dumps([[token, log_prob]]).encode()),
    ]
    for form, body in bodies:
        assert form.decode(body) == (token, log_prob)


@pytest.mark.parametrize(
    ("form", "body"),
    [
        (OIP, b""),
        (OIP, b"\x32\x08\x00"),
        (OIP, b"\x32\x04" + struct.pack("<f", 3)),
        (OIP, b"\x0b"),
        (SEQUENCES, b""),
        (PACKED, b""),
        (PACKED, b"\x0a\x08" + struct.pack("<2f", 0.5, -1)),
        (JSON_OBJECT, b'{"detail": "busy"}'),
        (JSON_OBJECT, b"<html>"),
        (JSON_ROWS, b"[[1]]"),
        (JSON_ROWS, b"[[1, -0.5], [2, -0.5]]"),
    ],
)
def test_anything_else_is_refused(form: Format, body: bytes) -> None:
    with pytest.raises(ValueError):
        form.decode(body)


def test_fields_of_every_wire_type_are_read() -> None:
    message = descriptor_pb2.UninterpretedOption(
        positive_int_value=300, double_value=1.5, string_value=b"abc", negative_int_value=-2
    )
    read = dict(fields(message.SerializeToString()))
    assert int.from_bytes(read[4], "little") == 300
    assert int.from_bytes(read[5], "little", signed=True) == -2
    assert struct.unpack("<d", read[6]) == (1.5,)
    assert read[7] == b"abc"
