"""What emitting a model gives."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from export.emit.builder import GraphBuilder
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

    @classmethod
    def build(
        cls,
        builders: Mapping[GraphKind, GraphBuilder],
        states: tuple[StateSpec, ...],
        memories: tuple[MemorySpec, ...] = (),
    ) -> "EmittedModel":
        """Finish the graphs of a model."""
        graphs = {kind: builder.build() for kind, builder in builders.items()}
        return cls(graphs, {kind: builder.spec() for kind, builder in builders.items()}, states, memories)
