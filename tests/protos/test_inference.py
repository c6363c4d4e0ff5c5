"""The messages of the Open Inference Protocol beside those that its usual client carries."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Every message, field, enum and method that we have, in the words of the client's own descriptors.
COMPARE = """
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2
from protos.inference import grpc_service_pb2 as ours, model_config_pb2 as our_config

def facts(files):
    messages, enums, methods = {}, {}, {}
    def look(prefix, message):
        name = f"{prefix}.{message.name}"
        oneofs = [oneof.name for oneof in message.oneof_decl]
        messages[name] = {
            field.name: (field.number, field.type, field.label, field.type_name,
                         oneofs[field.oneof_index] if field.HasField("oneof_index") else None, field.proto3_optional)
            for field in message.field
        } | {"options": message.options.SerializeToString()}
        for nested in message.nested_type:
            look(name, nested)
        for enum in message.enum_type:
            enums[f"{name}.{enum.name}"] = {value.name: value.number for value in enum.value}
    for module in files:
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        assert (file.package, file.syntax) == ("inference", "proto3")
        for message in file.message_type:
            look("", message)
        for enum in file.enum_type:
            enums["." + enum.name] = {value.name: value.number for value in enum.value}
        for service in file.service:
            for method in service.method:
                methods[f"{service.name}/{method.name}"] = (
                    method.input_type, method.output_type, method.client_streaming, method.server_streaming)
    return messages, enums, methods

mine, theirs = facts((ours, our_config)), facts((service_pb2, model_config_pb2))
num_fields = 0
for name, fields in mine[0].items():
    for field, fact in fields.items():
        assert theirs[0][name][field] == fact, (name, field, fact, theirs[0][name][field])
        num_fields += 1
assert mine[1] == {name: theirs[1][name] for name in mine[1]}
assert mine[2] == {name: theirs[2][name] for name in mine[2]}
print(len(mine[0]), num_fields, len(mine[1]), len(mine[2]))
"""

# A message of each goes through the other.
EXCHANGE = """
request = ours.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"abc"])
request.parameters["sequence_id"].int64_param = 5
request.inputs.add(name="x", datatype="INT8", shape=[1, 3]).parameters["p"].uint64_param = 2**63
theirs = service_pb2.ModelInferRequest.FromString(request.SerializeToString())
assert (theirs.model_name, theirs.id, theirs.raw_input_contents[0]) == ("m", "7", b"abc")
assert theirs.parameters["sequence_id"].int64_param == 5
assert theirs.inputs[0].parameters["p"].uint64_param == 2**63
assert ours.ModelInferRequest.FromString(theirs.SerializeToString()) == request
assert type(request).DESCRIPTOR.full_name == type(theirs).DESCRIPTOR.full_name == "inference.ModelInferRequest"
print("exchanged")
"""
OURS = "from protos.inference import grpc_service_pb2 as ours\n"
THEIRS = "from tritonclient.grpc import service_pb2\n"


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


@pytest.mark.slow
def test_names_numbers_and_types_are_the_published_ones() -> None:
    num_messages, num_fields, num_enums, num_methods = map(int, python(COMPARE).split())
    assert num_messages > 60
    assert num_fields > 250
    assert num_enums == 4
    assert num_methods == 15


@pytest.mark.slow
@pytest.mark.parametrize("code", [OURS + THEIRS, THEIRS + OURS], ids=["ours first", "theirs first"])
def test_they_live_in_one_process_with_the_usual_client(code: str) -> None:
    assert python(code + EXCHANGE) == "exchanged"
