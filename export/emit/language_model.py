"""Graphs of the language model.

`sequence` scores given texts, `step` says what may come next, `chunk` says it after each of several given tokens.
"""

from collections.abc import Sequence

from export.emit.builder import GraphBuilder
from export.emit.emitted import EmittedModel
from export.emit.linear import Activation, emit_embedding, emit_linear
from export.emit.output import ceilings, emit_next_log_probs, emit_top, emit_top_of_chunk
from export.emit.pools import declare_state_pools, gather_states, scatter_states, state_spec
from export.emit.primitive import variants_of
from export.emit.recurrent import emit_chunk, emit_stack, emit_step, flatten_steps
from export.emit.weights import CellWeights, to_numpy
from export.manifest import Precision, StateSpec
from models.language_model import LanguageModel
from models.states import state_names


def emit_language_model(model: LanguageModel, precision: Precision, top_k: int, for_cuda: bool) -> EmittedModel:
    """Emit all graphs.

    Args:
        model: The trained module.
        precision: Of weights and products.
        top_k: Best next tokens that a step returns.
        for_cuda: Whether to emit the variants of step and chunk.
    """
    config = model.config
    names = state_names(config.cell, config.layers, bidirectional=False)
    states = tuple(state_spec(name, config.hidden, pooled=True, sequence=True) for name in names)
    first = CellWeights.from_stack(model.stack, 0)
    return EmittedModel.build(
        {
            "sequence": lambda graph: _emit_sequence(graph, model, states),
            "step": lambda graph: _emit_step(graph, model, states, top_k),
            "chunk": lambda graph: _emit_chunk(graph, model, states, top_k),
        },
        precision,
        states,
        variants=variants_of(first, model.vocabulary_size) if for_cuda else (),
    )


def _emit_sequence(graph: GraphBuilder, model: LanguageModel, states: tuple[StateSpec, ...]) -> None:
    tokens = graph.input("tokens", "int64", ("B", "T"))
    targets = graph.input("targets", "int64", ("B", "T"))
    lengths = graph.input("lengths", "int64", ("B",))
    given = [graph.input(str(state.sequence_input), state.dtype, ("B", *state.shape)) for state in states]
    initial = [graph.narrow(value) for value in given]
    embedded = _emit_embedded(graph, model, graph.op("Transpose", tokens, perm=[1, 0]))  # (T, B, E)
    outputs, final = emit_stack(graph, "stack", model.stack, [embedded], lengths, initial)
    log_probs = graph.op("LogSoftmax", _emit_logits(graph, model, outputs), axis=-1)  # (T, B, V)
    chosen = graph.op("Transpose", targets, perm=[1, 0])
    picked = graph.op("GatherElements", log_probs, graph.op("Unsqueeze", chosen, graph.ints(2)), axis=2)
    highest = graph.op("Gather", ceilings(graph, model.vocabulary_size), chosen)
    ruled = graph.op("Min", graph.op("Squeeze", picked, graph.ints(2)), highest)
    graph.output(graph.op("Transpose", ruled, perm=[1, 0]), "target_log_probs", "float32", ("B", "T"))
    for state, value in zip(states, final, strict=True):
        graph.output(graph.widen(value), str(state.sequence_output), state.dtype, ("B", *state.shape))


def _emit_step(graph: GraphBuilder, model: LanguageModel, states: tuple[StateSpec, ...], top_k: int) -> None:
    tokens = graph.input("tokens", "int64", ("B",))
    read_slots = graph.input("read_slots", "int64", ("B",))
    write_slots = graph.input("write_slots", "int64", ("B",))
    pools = declare_state_pools(graph, states)
    old = gather_states(graph, pools, read_slots)
    value = _emit_embedded(graph, model, tokens)  # (B, E)
    per_layer = len(states) // model.config.layers
    new: list[str] = []
    for layer in range(model.config.layers):
        weights = CellWeights.from_stack(model.stack, layer)
        new += emit_step(graph, f"stack.{layer}", weights, [value], old[layer * per_layer : (layer + 1) * per_layer])
        value = Activation(new[-per_layer], model.config.hidden)
    log_probs = emit_next_log_probs(graph, _emit_logits(graph, model, [value]), model.vocabulary_size)
    graph.output(log_probs, "log_probs", "float32", ("B", model.vocabulary_size))
    emit_top(graph, log_probs, min(top_k, model.vocabulary_size))
    scatter_states(graph, states, pools, write_slots, new)


def _emit_chunk(graph: GraphBuilder, model: LanguageModel, states: tuple[StateSpec, ...], top_k: int) -> None:
    tokens = graph.input("tokens", "int64", ("B", "T"))
    read_slots = graph.input("read_slots", "int64", ("B",))
    write_slots = graph.input("write_slots", "int64", ("B",))
    pools = declare_state_pools(graph, states)
    embedded = _emit_embedded(graph, model, graph.op("Transpose", tokens, perm=[1, 0]))  # (T, B, E)
    outputs, new = emit_chunk(graph, "stack", model.stack, [embedded], gather_states(graph, pools, read_slots))
    logits = _emit_logits(graph, model, flatten_steps(graph, outputs))
    log_probs = emit_next_log_probs(graph, logits, model.vocabulary_size)
    emit_top_of_chunk(graph, log_probs, read_slots, min(top_k, model.vocabulary_size))
    scatter_states(graph, states, pools, write_slots, new)


def _emit_embedded(graph: GraphBuilder, model: LanguageModel, tokens: str) -> Activation:
    return emit_embedding(graph, "embedding", to_numpy(model.embedding.weight), tokens)


def _emit_logits(graph: GraphBuilder, model: LanguageModel, outputs: Sequence[Activation]) -> str:
    """Logits (..., V) float32."""
    weight, bias = model.projection()
    return graph.widen(emit_linear(graph, "output", outputs, to_numpy(weight), to_numpy(bias)))
