"""What emitting a model gives."""

from dataclasses import dataclass

import onnx

from export.manifest import GraphKind, GraphSpec, MemorySpec, StateSpec


@dataclass(frozen=True)
class EmittedModel:
    """The graphs of a model and what the manifest says of them.

    Args:
        graphs: By kind.
        specs: By kind; `file` is `<kind>.onnx`.
        states: Recurrent state tensors, in the order of `models.states.state_names`.
        memories: Attention memories.
    """

    graphs: dict[GraphKind, onnx.ModelProto]
    specs: dict[GraphKind, GraphSpec]
    states: tuple[StateSpec, ...] = ()
    memories: tuple[MemorySpec, ...] = ()
