"""The recurrent operators of ONNX, and what of them the CUDA provider of ONNX Runtime runs.

It calls cuDNN, whose layers are an LSTM and a GRU of the usual functions, a GRU whose reset gate comes after its
product, and Elman layers of tanh. What else ONNX describes it leaves to the CPU: every run waits for copies there and
back. Exports, imports and the service go by this one account; therefore it needs no onnx.

Source: https://github.com/microsoft/onnxruntime, RNNNeedFallbackToCPU in
onnxruntime/core/providers/cuda/cuda_execution_provider.cc.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

# Of a direction: those of a node that names none, and all that CUDA has, in upper or lower case.
FUNCTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "RNN": ("Tanh",),
    "GRU": ("Sigmoid", "Tanh"),
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
}
PEEPHOLES: Final = 7  # position among the inputs of an LSTM
_NEVER: Final = ("clip", "activation_alpha", "activation_beta")  # whatever they say


def refusals(op_type: str, settings: Mapping[str, object], inputs: Sequence[str]) -> Iterator[str]:
    """Say why the CUDA provider leaves a node to the CPU.

    Args:
        op_type: The operator; of none but those of `FUNCTIONS` is anything said.
        settings: Attributes by name, texts as str, lists as tuples.
        inputs: Names of values; empty where an optional one is left out.
    """
    has = FUNCTIONS.get(op_type)
    if has is None:
        return
    given = settings.get("activations", ())
    names = given if isinstance(given, tuple) else ()
    if any(str(name).lower() != has[i % len(has)].lower() for i, name in enumerate(names)):
        yield f"activations {', '.join(map(str, names))}; CUDA has {', '.join(has)} alone"
    for name in _NEVER:
        if name in settings:
            yield f"{name}, which CUDA has not"
    if op_type == "GRU" and settings.get("linear_before_reset", 0) != 1:
        yield "linear_before_reset=0; CUDA has 1 alone"
    if op_type == "LSTM" and settings.get("input_forget", 0) != 0:
        yield "input_forget=1, which CUDA has not"
    if op_type == "LSTM" and len(inputs) > PEEPHOLES and inputs[PEEPHOLES]:
        yield "peepholes, which CUDA has not"
