"""Files that no import may take: each is written here, and says what the reason must name."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.importing.small_models import cell, honest, model, tensor, weight

MODEL = "model.onnx"


class Hostile(NamedTuple):
    """One file.

    Args:
        write: Puts it, and what belongs to it, into an empty folder.
        reason: Words of the reason, a regular expression.
    """

    write: Callable[[Path], object]
    reason: str


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / MODEL).write_bytes(content)


def _model(make: Callable[[], onnx.ModelProto]) -> Callable[[Path], object]:
    return lambda folder: (folder / MODEL).write_bytes(make().SerializeToString())


def _changed(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], object]:
    """The honest model with one thing wrong."""

    def make() -> onnx.ModelProto:
        changed = honest()
        change(changed)
        return changed

    return _model(make)


def _varint(value: int) -> bytes:
    content = b""
    while value > 0x7F:
        content += bytes([value & 0x7F | 0x80])
        value >>= 7
    return content + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _deep_graph(depth: int) -> bytes:
    """Graphs in attributes of nodes of graphs, deeper than any parser follows."""
    graph = b""
    for _ in range(depth):
        graph = _field(1, _field(5, _field(6, graph)))
    return b"\x08\x08" + _field(7, graph)


def _external(location: str, **entries: str) -> onnx.ModelProto:
    changed = honest()
    tensor_ = changed.graph.initializer[0]
    tensor_.ClearField("raw_data")
    tensor_.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        entry = tensor_.external_data.add()
        entry.key, entry.value = key, value
    return changed


def _function(name: str, calls: list[str]) -> onnx.FunctionProto:
    """f(v) -> the sum of calls of others, one after the other."""
    nodes = [
        helper.make_node(call, ["v" if index == 0 else f"v{index - 1}"], [f"v{index}"], domain="local")
        for index, call in enumerate(calls)
    ]
    nodes.append(helper.make_node("Identity", [f"v{len(calls) - 1}"], ["r"]))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["v"], ["r"], nodes, opsets)


def _calling(name: str, functions: list[onnx.FunctionProto]) -> onnx.ModelProto:
    nodes = [*cell()[:-1], helper.make_node(name, ["state_out"], ["y"], domain="local")]
    return model(nodes, [weight()], functions, ["local"])


def _doubling(depth: int) -> onnx.ModelProto:
    leaf = helper.make_function(
        "local", "f0", ["v"], ["r"], [helper.make_node("Tanh", ["v"], ["r"])], [helper.make_opsetid("", 17)]
    )
    calls = [_function(f"f{level}", [f"f{level - 1}"] * 2) for level in range(1, depth)]
    return _calling(f"f{depth - 1}", [leaf, *calls])


def _raw(dims: list[int], data: bytes, dtype: int = TensorProto.FLOAT) -> onnx.TensorProto:
    return TensorProto(name="w", dims=dims, data_type=dtype, raw_data=data)


def _expanded(*dims: int) -> onnx.ModelProto:
    """A tensor that the file does not have but whoever runs it."""
    shape = numpy_helper.from_array(np.array(dims, np.int64), "shape")
    nodes = [
        helper.make_node("Expand", ["w", "shape"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["total"], keepdims=0),
        *cell()[:-1],
        helper.make_node("Add", ["state_out", "total"], ["y"]),
    ]
    return model(nodes, [weight(), shape])


def _sparse() -> onnx.ModelProto:
    changed = model(cell())
    sparse = changed.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    sparse.dims.extend([1 << 30, 1 << 30])
    return changed


def _cycle() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Identity", ["b"], ["y"]),  # behind the cycle, not on it
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Identity", ["state"], ["state_out"]),
    ]
    return model(nodes)


def _cycle_through_subgraph() -> onnx.ModelProto:
    """The body of an If reads from around it what only comes after the If."""
    branch = helper.make_graph([helper.make_node("Identity", ["later"], ["inner"])], "b", [], [tensor("inner")])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["flag"], to=TensorProto.BOOL),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Tanh", ["y"], ["later"]),
        helper.make_node("Identity", ["state"], ["state_out"]),
    ]
    return model(nodes)


def _endless() -> onnx.ModelProto:
    """A loop without an end."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Tanh", ["carried"], ["next"]),
        ],
        "body",
        [tensor("n", (), TensorProto.INT64), tensor("go", (), TensorProto.BOOL), tensor("carried")],
        [tensor("still", (), TensorProto.BOOL), tensor("next")],
    )
    ever = numpy_helper.from_array(np.array((1 << 63) - 1, np.int64), "ever")
    yes = numpy_helper.from_array(np.array(True), "yes")
    nodes = [*cell()[:-1], helper.make_node("Loop", ["ever", "yes", "state_out"], ["y"], body=body)]
    return model(nodes, [weight(), ever, yes])


def endless(folder: Path) -> None:
    """Not in the table: that it is one takes as long to find out as is allowed."""
    (folder / MODEL).write_bytes(_endless().SerializeToString())


def _link_out(folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-outside.bin"
    outside.write_bytes(bytes(64))
    (folder / "weights.bin").symlink_to(outside)
    (folder / MODEL).write_bytes(_external("weights.bin").SerializeToString())


def _short_data(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(bytes(63))
    (folder / MODEL).write_bytes(_external("weights.bin").SerializeToString())


def _fifo_data(folder: Path) -> None:
    os.mkfifo(folder / "weights.bin")
    (folder / MODEL).write_bytes(_external("weights.bin").SerializeToString())


def _socket(folder: Path) -> None:
    # Bound by a relative name: the full one may be longer than addresses of sockets can be.
    with socket.socket(socket.AF_UNIX) as bound:
        descriptor = os.open(folder, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{descriptor}/{MODEL}")
        os.close(descriptor)


def _invalid_utf8() -> bytes:
    return honest().SerializeToString().replace(b"product", b"pr\xffduct")


def _lfs() -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1807522\n"


_NOT_ALLOWED = "external data: .*, refused unless allowed"

HOSTILE: dict[str, Hostile] = {
    # What is no file, or none of ours.
    "nothing there": Hostile(lambda folder: None, "nothing there"),
    "a folder": Hostile(lambda folder: (folder / MODEL).mkdir(), "regular file, got a folder"),
    "a FIFO": Hostile(lambda folder: os.mkfifo(folder / MODEL), "regular file, got a FIFO"),
    "a socket": Hostile(_socket, "can be read|a socket"),
    "a device": Hostile(lambda folder: (folder / MODEL).symlink_to("/dev/zero"), "regular file, got a device"),
    "a link to itself": Hostile(lambda folder: (folder / MODEL).symlink_to(folder / MODEL), "can be read.*links"),
    "an empty file": Hostile(_bytes(b""), "empty"),
    "a sparse file of 3 GiB": Hostile(
        lambda folder: os.truncate(os.open(folder / MODEL, os.O_CREAT | os.O_WRONLY), 3 << 30), "size: expected at most"
    ),
    "text": Hostile(_bytes(b"This is not a model.\n" * 50), "not an ONNX model"),
    "noise": Hostile(_bytes(np.random.default_rng(1).bytes(4096)), "not an ONNX model"),
    "zeros": Hostile(_bytes(bytes(4096)), "not an ONNX model"),
    "a zip": Hostile(_bytes(b"PK\x03\x04" + bytes(100)), "zip archive"),
    "a pickle": Hostile(_bytes(b"\x80\x04\x95" + bytes(100)), "pickle"),
    "a Git LFS pointer": Hostile(_bytes(_lfs()), "Git LFS pointer"),
    "ORT format": Hostile(_bytes(b"\x20\x00\x00\x00ORTM" + bytes(100)), "ONNX Runtime's own format"),
    "half a model": Hostile(_bytes(honest().SerializeToString()[:150]), "truncated"),
    "a model without its last byte": Hostile(_bytes(honest().SerializeToString()[:-1]), "truncated"),
    "a graph inside out": Hostile(_bytes(b"\x08\x08" + _field(7, b"\x0a\xff")), "do not parse"),
    "graphs a thousand deep": Hostile(_bytes(_deep_graph(1000)), "do not parse"),
    "names that are not UTF-8": Hostile(_bytes(_invalid_utf8()), "UTF-8|do not parse"),
    "no graph": Hostile(_bytes(b"\x08\x08"), "expected one graph, got 0"),
    "two graphs": Hostile(_bytes(honest().SerializeToString() * 2), "expected one graph, got 2"),
    # Versions and operators.
    "an IR version to come": Hostile(_changed(lambda m: setattr(m, "ir_version", 999)), "IR version: expected"),
    "an opset to come": Hostile(
        _changed(lambda m: setattr(m.opset_import[0], "version", 999)), "opset: expected 1 to .*999"
    ),
    "no opset": Hostile(_changed(lambda m: m.ClearField("opset_import")), "opset: expected"),
    "an operator that is not there": Hostile(
        _changed(lambda m: setattr(m.graph.node[2], "op_type", "Tanhh")), "No Op registered for Tanhh"
    ),
    "a custom operator": Hostile(
        _changed(lambda m: setattr(m.graph.node[2], "domain", "my.ops")), "custom operator 'Tanh' of domain 'my.ops'"
    ),
    "a compiled program": Hostile(
        _model(
            lambda: model(
                [
                    helper.make_node(
                        "EPContext", ["x", "state"], ["y", "state_out"], domain="com.microsoft", ep_cache_context="/x"
                    )
                ],
                domains=["com.microsoft"],
            )
        ),
        "EPContext",
    ),
    "the wrong number of inputs": Hostile(_changed(lambda m: m.graph.node[0].input.pop()), "ONNX checker"),
    "types that do not fit": Hostile(
        _changed(lambda m: setattr(m.graph.input[1].type.tensor_type, "elem_type", TensorProto.INT64)), "ONNX"
    ),
    # Graphs.
    "a cycle": Hostile(_model(_cycle), r"has a cycle: node [12] \((Add|Tanh)\)"),
    "a cycle through a branch": Hostile(_model(_cycle_through_subgraph), r"has a cycle: node [23] \((If|Tanh)\)"),
    "nodes in the wrong order": Hostile(
        _model(lambda: model(cell()[::-1], [weight()])), "expected each after those that it reads from"
    ),
    "a value from nowhere": Hostile(_changed(lambda m: m.graph.node[0].input.__setitem__(0, "nowhere")), "nowhere"),
    "a value given twice": Hostile(_changed(lambda m: m.graph.node[0].output.__setitem__(0, "sum")), "given twice"),
    "an output from nowhere": Hostile(_changed(lambda m: setattr(m.graph.output[0], "name", "nobody")), "nobody"),
    "no outputs": Hostile(_changed(lambda m: m.graph.ClearField("output")), "no outputs"),
    "two inputs of one name": Hostile(_changed(lambda m: m.graph.input.append(m.graph.input[0])), "two inputs"),
    "a name with line ends": Hostile(
        _changed(lambda m: setattr(m.graph.input[0], "name", "x\x1b[2J\n\nimported")), "printable"
    ),
    "a name of a megabyte": Hostile(_changed(lambda m: setattr(m.graph.input[0], "name", "x" * 1_000_000)), "at most"),
    "an input without a name": Hostile(_changed(lambda m: setattr(m.graph.input[0], "name", "")), "no name"),
    "a function that calls itself": Hostile(_model(lambda: _calling("f", [_function("f", ["f"])])), "calls itself"),
    "functions that call each other": Hostile(
        _model(lambda: _calling("f", [_function("f", ["g"]), _function("g", ["f"])])), "calls itself"
    ),
    "functions that double forty times": Hostile(_model(lambda: _doubling(40)), "nodes: expected at most"),
    # Sizes.
    "weights shorter than they say": Hostile(
        _model(lambda: model(cell(), [_raw([4, 4], bytes(60))])), "expected 64 bytes .* got 60"
    ),
    "weights of an exabyte": Hostile(
        _model(lambda: model(cell(), [_raw([1 << 30, 1 << 30], b"")])), "expected at most .* bytes"
    ),
    "weights of a negative size": Hostile(_model(lambda: model(cell(), [_raw([-4, 4], bytes(64))])), "at least 0"),
    "weights whose size overflows": Hostile(
        _model(lambda: model(cell(), [_raw([1 << 62, 4], b"")])), "expected at most .* bytes"
    ),
    "weights of no type": Hostile(_model(lambda: model(cell(), [_raw([4, 4], bytes(64), 99)])), "type of elements"),
    "sparse weights of an exabyte": Hostile(_model(_sparse), "sparse tensor .* expected at most"),
    "an input of a petabyte": Hostile(
        _model(lambda: model(cell(), [weight()], inputs=[tensor("x", [1 << 48, 4]), tensor("state")])),
        "value 'x': expected at most",
    ),
    "a constant to compute of 40 GiB": Hostile(_model(lambda: _expanded(10 << 26, 4, 4)), "needs more memory"),
    # Data elsewhere; the tests allow it, but for the first one.
    "external data": Hostile(_short_data, _NOT_ALLOWED),
    "external data that is missing": Hostile(_model(lambda: _external("weights.bin")), _NOT_ALLOWED),
    "external data above the folder": Hostile(_model(lambda: _external("../weights.bin")), _NOT_ALLOWED),
    "external data by its full path": Hostile(_model(lambda: _external("/etc/passwd")), _NOT_ALLOWED),
    "external data behind a link": Hostile(_link_out, _NOT_ALLOWED),
    "external data out of a FIFO": Hostile(_fifo_data, _NOT_ALLOWED),
    "external data in memory": Hostile(
        _model(lambda: _external("*/_ORT_MEM_ADDR_/*", offset="140000000000000", length="64")), _NOT_ALLOWED
    ),
    "external data of another length": Hostile(
        _model(lambda: _external("weights.bin", length="9999999999999999999")), _NOT_ALLOWED
    ),
}
# What the reason says when data in other files is allowed.
EXTERNAL_REASONS = {
    "external data": "expected 64 bytes of 'weights.bin', got 63",
    "external data that is missing": "expected the file 'weights.bin', got nothing there",
    "external data above the folder": "inside the model's folder, got '../weights.bin'",
    "external data by its full path": "inside the model's folder, got '/etc/passwd'",
    "external data behind a link": "got a link out of it",
    "external data out of a FIFO": "expected a regular file, got 'weights.bin'",
    "external data in memory": "nothing there",
    "external data of another length": "expected a number|expected 64 bytes .* got 9999999999999999999|nothing there",
}
