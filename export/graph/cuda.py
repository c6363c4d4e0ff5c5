"""Which recurrent nodes the CUDA provider of ONNX Runtime leaves to the CPU: every run waits for copies there and back.

It calls cuDNN, whose layers are an LSTM and a GRU of the usual functions, a GRU whose reset gate comes after its
product, and Elman layers of tanh; what else ONNX describes, it does not run.
Source: https://github.com/microsoft/onnxruntime, onnxruntime/core/providers/cuda/rnn.
"""

import onnx

from export.graph.walk import all_nodes

_USUAL = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
_PEEPHOLES = 7  # position among the inputs of an LSTM


def refused_by_cuda(model: onnx.ModelProto) -> list[str]:
    """The recurrent nodes that would run on the CPU in a CUDA session, those of bodies too.

    Returns:
        A line each: operator, name and reason; none is good.
    """
    return [
        f"{node.op_type} {node.name}: {why}" for node in all_nodes(model.graph) if (why := refusal(node)) is not None
    ]


def refusal(node: onnx.NodeProto) -> str | None:
    """Why the CUDA provider leaves a node to the CPU; None if it is no recurrent node, or does not."""
    if node.op_type not in _USUAL or node.domain not in ("", "ai.onnx"):
        return None
    values = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    usual = _USUAL[node.op_type]
    given = [name.decode() for name in values.get("activations", ())]
    if any(name != usual[i % len(usual)] for i, name in enumerate(given)):
        return f"expected activations {', '.join(usual)}, got {', '.join(given)}"
    if node.op_type == "GRU" and not values.get("linear_before_reset", 0):
        return "expected linear_before_reset=1, got 0"
    if "clip" in values:
        return f"expected no clip, got {values['clip']:g}"
    if values.get("input_forget", 0):
        return "expected input_forget=0, got 1"
    if node.op_type == "LSTM" and len(node.input) > _PEEPHOLES and node.input[_PEEPHOLES]:
        return "expected no peepholes, got some"
    return None
