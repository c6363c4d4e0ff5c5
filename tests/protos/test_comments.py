"""Everything that a caller meets in the contract says what it is."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "protos").rglob("*.proto"))


@pytest.fixture(scope="module")
def descriptors(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorSet:
    out = tmp_path_factory.mktemp("protos") / "all.bin"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--descriptor_set_out={out}"]
    subprocess.run([*command, "--include_source_info", *FILES], cwd=ROOT, check=True)
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


Named = tuple[tuple[int, ...], str]  # path into the file's source info, full name


def messages(path: tuple[int, ...], prefix: str, message: descriptor_pb2.DescriptorProto) -> Iterator[Named]:
    if message.options.map_entry:
        return
    name = f"{prefix}.{message.name}"
    yield path, name
    for i, field in enumerate(message.field):
        yield (*path, 2, i), f"{name}.{field.name}"
    for i, oneof in enumerate(message.oneof_decl):
        if not oneof.name.startswith("_"):  # made up by the compiler for an optional field
            yield (*path, 8, i), f"{name}.{oneof.name}"
    for i, nested in enumerate(message.nested_type):
        yield from messages((*path, 3, i), name, nested)
    for i, enum in enumerate(message.enum_type):
        yield from enums((*path, 4, i), name, enum)


def enums(path: tuple[int, ...], prefix: str, enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[Named]:
    yield path, f"{prefix}.{enum.name}"
    for i, value in enumerate(enum.value):
        yield (*path, 2, i), f"{prefix}.{value.name}"


def everything(file: descriptor_pb2.FileDescriptorProto) -> Iterator[Named]:
    for i, message in enumerate(file.message_type):
        yield from messages((4, i), file.package, message)
    for i, enum in enumerate(file.enum_type):
        yield from enums((5, i), file.package, enum)
    for i, service in enumerate(file.service):
        yield (6, i), f"{file.package}.{service.name}"
        for j, method in enumerate(service.method):
            yield (6, i, 2, j), f"{file.package}.{service.name}.{method.name}"


@pytest.mark.parametrize("number", range(len(FILES)), ids=FILES)
def test_everything_in_the_contract_has_a_comment(descriptors: descriptor_pb2.FileDescriptorSet, number: int) -> None:
    file = descriptors.file[number]
    said = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
    names = list(everything(file))
    assert len(names) > 5
    assert [name for path, name in names if not said.get(path)] == []
