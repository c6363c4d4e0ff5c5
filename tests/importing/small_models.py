"""Small recurrent graphs by hand, to be imported or spoiled."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
FLOAT = TensorProto.FLOAT
WIDTH = 4


def model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
) -> onnx.ModelProto:
    """A model of (x, state) -> (y, state_out), all (B, WIDTH) unless said otherwise."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        list(inputs) if inputs is not None else [tensor("x"), tensor("state")],
        list(outputs) if outputs is not None else [tensor("y"), tensor("state_out")],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, functions=list(functions))


def tensor(name: str, shape: Sequence[int | str] = ("B", WIDTH), dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def weight(name: str = "w") -> onnx.TensorProto:
    values = np.arange(WIDTH * WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH) / 16
    return numpy_helper.from_array(values, name)


def cell() -> list[onnx.NodeProto]:
    """state_out = tanh(x w + state); y = 2 state_out."""
    return [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "state"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["state_out"]),
        helper.make_node("Add", ["state_out", "state_out"], ["y"]),
    ]


def honest() -> onnx.ModelProto:
    """One that imports."""
    return model(cell(), [weight()])
