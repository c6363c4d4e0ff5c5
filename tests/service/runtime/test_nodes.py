"""What is read of an ONNX file, beside what the package onnx reads of it."""

import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph.walk import all_nodes, reads
from service.runtime.errors import RunnerError
from service.runtime.nodes import Node, read_nodes
from tests.service import tiny_models as tiny


def looping_model() -> onnx.ModelProto:
    """A Scan whose body has a branch, a GRU set in every way, a function, and a tensor larger than a byte can tell."""
    value = helper.make_tensor_value_info
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["h", "w"], ["inner"], "in a branch")],
        "branch", [], [value("inner", TensorProto.FLOAT, None)],
    )  # fmt: skip
    body = helper.make_graph(
        [
            helper.make_node("If", ["yes"], ["next"], "choice", then_branch=branch, else_branch=branch),
            helper.make_node("Identity", ["next"], ["out"]),
        ],
        "body", [value("h", TensorProto.FLOAT, [3]), value("x", TensorProto.FLOAT, [3])],
        [value("next", TensorProto.FLOAT, [3]), value("out", TensorProto.FLOAT, [3])],
    )  # fmt: skip
    nodes = [
        helper.make_node("Scan", ["h0", "xs"], ["h1", "ys"], "loop", body=body, num_scan_inputs=1),
        helper.make_node(
            "GRU", ["ys", "w", "r", "", "", "h1"], ["", "last"], "cell",
            hidden_size=3, clip=2.5, activations=["Sigmoid", "Relu"], activation_alpha=[0.5, -2.0], direction="forward",
            linear_before_reset=-1,
        ),
        helper.make_node("Doubled", ["last"], ["end"], domain="ours"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [value("h0", TensorProto.FLOAT, [3])], [value("end", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((300, 300), dtype=np.float32), "w")],
    )  # fmt: skip
    double = helper.make_function(
        "ours", "Doubled", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"], "twice")],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    return helper.make_model(graph, functions=[double], doc_string="é" * 200)


def test_nodes_of_bodies_and_functions_are_read_as_onnx_reads_them(tmp_path: Path) -> None:
    model = looping_model()
    onnx.save(model, tmp_path / "model.onnx")
    expected = [*all_nodes(model.graph), *model.functions[0].node]
    found = read_nodes(tmp_path / "model.onnx")

    def told(name: str, op_type: str, outputs: tuple[str, ...]) -> tuple[str, str, tuple[str, ...]]:
        return name, op_type, outputs

    assert sorted(told(node.name, node.op_type, node.outputs) for node in found) == sorted(
        told(node.name, node.op_type, tuple(node.output)) for node in expected
    )
    by_name = {node.name: node for node in found}
    for node in expected:
        if node.name:
            assert by_name[node.name].inputs[: len(node.input)] == tuple(node.input)
            assert reads(node) <= set(by_name[node.name].inputs)
    assert by_name["cell"].settings == {
        "hidden_size": 3,
        "clip": 2.5,
        "activations": ("Sigmoid", "Relu"),
        "activation_alpha": (0.5, -2.0),
        "direction": "forward",
        "linear_before_reset": -1,
    }
    assert {node.name for node in found if node.looped} == {"in a branch", "choice", ""}


def test_lists_of_real_numbers_are_read_in_both_ways_to_write_them(tmp_path: Path) -> None:
    """One by one, as ONNX does it, and packed, as other writers may."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    attribute = field(1, b"activation_alpha") + field(7, struct.pack("<2f", 0.5, -2))
    node = helper.make_node("RNN", ["x"], ["y"], activation_beta=[0.25]).SerializeToString() + field(5, attribute)
    encoded = field(7, field(1, node))
    (read,) = onnx.ModelProto.FromString(encoded).graph.node
    assert [list(one.floats) for one in read.attribute] == [[0.25], [0.5, -2.0]]
    (tmp_path / "model.onnx").write_bytes(encoded)
    (found,) = read_nodes(tmp_path / "model.onnx")
    assert found.settings == {"activation_beta": (0.25,), "activation_alpha": (0.5, -2.0)}


def test_graphs_that_we_write_are_read(tmp_path: Path) -> None:
    manifest = tiny.write_encoder_decoder(tmp_path, tiny.make_table())
    for spec in manifest.graphs.values():
        expected = [tuple(node.output) for node in onnx.load(tmp_path / spec.file).graph.node]
        assert [node.outputs for node in read_nodes(tmp_path / spec.file)] == expected


def test_a_file_that_was_cut_or_is_none_is_refused_or_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = looping_model().SerializeToString()
    file = tmp_path / "model.onnx"
    refused = 0
    for end in range(0, len(whole), 997 if len(whole) > 9970 else 1):
        file.write_bytes(whole[:end])
        try:
            assert all(isinstance(node, Node) for node in read_nodes(file))
        except RunnerError as error:
            assert str(error).startswith("model.onnx: expected an ONNX file, got ")
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x0b", b"\x3a\x05ab"])
def test_what_is_no_protobuf_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(RunnerError, match=r"^model\.onnx: expected an ONNX file, got one that cannot be read: "):
        read_nodes(tmp_path / "model.onnx")


def test_bodies_within_bodies_without_end_are_refused(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        size, length = bytearray(), len(content)
        while length > 127:
            size.append(length & 127 | 128)
            length >>= 7
        return bytes([number << 3 | 2]) + bytes([*size, length]) + content

    graph = b""
    for _ in range(100):
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "model.onnx").write_bytes(field(7, graph))
    with pytest.raises(RunnerError, match="nested more than 64 deep"):
        read_nodes(tmp_path / "model.onnx")
