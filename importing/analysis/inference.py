"""What shape inference knows that the model does not declare."""

from collections.abc import Sequence
from dataclasses import replace

import onnx

from importing.signature import Dims, Signature, Value, read_signature, same_sizes
from importing.states.pairs import Pair


def refine(signature: Signature, model: onnx.ModelProto, pairs: Sequence[Pair]) -> Signature:
    """Fill in the sizes that follow: of outputs from the graph, of a state from its next value.

    Args:
        signature: As declared.
        model: Whose.
        pairs: Its states, which keep their shape.
    """
    try:
        inferred = read_signature(onnx.shape_inference.infer_shapes(model), [value.name for value in signature.inputs])
    except Exception:  # what cannot be inferred is found out by running
        return signature
    following = {value.name: value.dims for value in inferred.outputs}
    outputs = tuple(replace(value, dims=_known(value.dims, following[value.name])) for value in signature.outputs)
    given = {pair.input: following[pair.output] for pair in pairs}
    inputs = tuple(_fix(value, given[value.name]) if value.name in given else value for value in signature.inputs)
    return replace(signature, inputs=inputs, outputs=outputs)


def _fix(value: Value, dims: Dims | None) -> Value:
    known = _known(value.dims, dims)
    assert known is not None
    return replace(value, dims=known, named=frozenset(a for a in value.named if isinstance(known[a], str)))


def _known(declared: Dims | None, inferred: Dims | None) -> Dims | None:
    """Numbers where either has one; the declaration's names elsewhere, and all of it where the two do not agree."""
    if declared is None or inferred is None or not same_sizes(declared, inferred):
        return declared
    return tuple(b if isinstance(a, str) and isinstance(b, int) else a for a, b in zip(declared, inferred, strict=True))
