"""What emitting a model gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx

from export.emit.builder import GraphBuilder
from export.manifest import GraphKind, GraphSpec, MemorySpec, Precision, StateSpec, Variant

# Fills in the graph of a kind.
EmitGraph = Callable[[GraphBuilder], None]


@dataclass(frozen=True)
class EmittedModel:
    """The graphs of a model and what the manifest says of them.

    Args:
        graphs: By kind.
        specs: By kind; `file` is `<kind>.onnx`, that of a variant `<kind>.<variant>.onnx`.
        states: Recurrent state tensors, in the order of `models.states.state_names`.
        memories: Attention memories.
        variants: Of the graphs that have any, by name.
    """

    graphs: dict[GraphKind, onnx.ModelProto]
    specs: dict[GraphKind, GraphSpec]
    states: tuple[StateSpec, ...] = ()
    memories: tuple[MemorySpec, ...] = ()
    variants: dict[Variant, dict[GraphKind, onnx.ModelProto]] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        emitters: Mapping[GraphKind, EmitGraph],
        precision: Precision,
        states: tuple[StateSpec, ...],
        memories: tuple[MemorySpec, ...] = (),
        variants: tuple[Variant, ...] = (),
    ) -> "EmittedModel":
        """Emit and finish the graphs of a model.

        Args:
            emitters: By kind; a chunk is left out in fp16.
            precision: Of weights and products.
            states: See the class.
            memories: See the class.
            variants: Of the step and the chunk, which of them to emit too.
        """
        graphs: dict[GraphKind, onnx.ModelProto] = {}
        specs: dict[GraphKind, GraphSpec] = {}
        others: dict[Variant, dict[GraphKind, onnx.ModelProto]] = {variant: {} for variant in variants}
        for kind, emit in emitters.items():
            # What lies between two operators is rounded or not as the runtime has kernels in float16, and between two
            # steps it always is: a chunk would not be its steps, bit for bit.
            if kind == "chunk" and precision == "fp16":
                continue
            builder = GraphBuilder(kind, precision)
            emit(builder)
            graphs[kind], specs[kind] = builder.build(), builder.spec()
            if kind not in ("step", "chunk"):
                continue
            files = {}
            for variant in variants:
                builder = GraphBuilder(f"{kind}.{variant}", precision, cells=variant)
                emit(builder)
                others[variant][kind], files[variant] = builder.build(), builder.spec().file
            specs[kind] = specs[kind].model_copy(update={"variants": files})
        return cls(graphs, specs, states, memories, others)
