"""What of a graph would run on the CPU in a CUDA session."""

import onnx

from export.graph.cuda import refusal
from export.graph.walk import all_nodes


def refused_by_cuda(model: onnx.ModelProto) -> list[str]:
    """The recurrent nodes that CUDA refuses, those of bodies too: operator, name and reason of each; none is good."""
    return [
        f"{node.op_type} {node.name}: {why}" for node in all_nodes(model.graph) if (why := refusal(node)) is not None
    ]
