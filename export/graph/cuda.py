"""Which recurrent nodes the CUDA provider of ONNX Runtime leaves to the CPU."""

import onnx

from export.graph.cells import refusals


def refusal(node: onnx.NodeProto) -> str | None:
    """The first reason, as `export.graph.cells.refusals`; None of what is no recurrent node, or does run there."""
    if node.domain not in ("", "ai.onnx"):
        return None
    values = {one.name: _plain(onnx.helper.get_attribute_value(one)) for one in node.attribute}
    return next(refusals(node.op_type, values, node.input), None)


def _plain(value: object) -> object:
    """An attribute with texts as str and lists as tuples."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return tuple(_plain(one) for one in value) if isinstance(value, list) else value
