"""Graphs of the encoder-decoder: `encode` reads sources, `step` advances targets by one token."""

from collections.abc import Sequence

from export.emit.attention import emit_attention, emit_keys
from export.emit.builder import GraphBuilder
from export.emit.emitted import EmittedModel
from export.emit.linear import Activation, emit_concat, emit_embedding, emit_linear
from export.emit.output import emit_next_log_probs, emit_top
from export.emit.pools import (
    declare_memory_pools,
    declare_state_pools,
    gather,
    memory_spec,
    scatter_memories,
    scatter_states,
    state_spec,
)
from export.emit.primitive import variants_of
from export.emit.recurrent import emit_stack, emit_step
from export.emit.weights import CellWeights, to_numpy
from export.manifest import MemorySpec, Precision, StateSpec
from models.encoder_decoder import EncoderDecoder
from models.states import state_names


def emit_encoder_decoder(model: EncoderDecoder, precision: Precision, top_k: int, for_cuda: bool) -> EmittedModel:
    """Emit both graphs. Attention and its keys are fp32 always.

    Args:
        model: The trained module.
        precision: Of weights and products.
        top_k: Best next tokens that a step returns.
        for_cuda: Whether to emit the variants of the step.
    """
    config = model.config
    names = state_names(config.cell, config.decoder_layers, bidirectional=False)
    states = tuple(state_spec(name, config.hidden, pooled=True, sequence=False) for name in names)
    memories = (memory_spec("memory", model.memory_size), memory_spec("keys", config.attention_dim))
    first = CellWeights.from_cell(model.cells[0])
    return EmittedModel.build(
        {
            "encode": lambda graph: _emit_encode(graph, model, states, memories),
            "step": lambda graph: _emit_step(graph, model, states, memories, top_k),
        },
        precision,
        states,
        memories,
        variants=variants_of(first, model.target_size) if for_cuda else (),
    )


def _emit_encode(
    graph: GraphBuilder, model: EncoderDecoder, states: tuple[StateSpec, ...], memories: tuple[MemorySpec, ...]
) -> None:
    source = graph.input("source", "int64", ("B", "S"))
    lengths = graph.input("lengths", "int64", ("B",))
    source_rows = graph.input("source_rows", "int64", ("B", "S"))
    write_slots = graph.input("write_slots", "int64", ("B",))
    state_pools = declare_state_pools(graph, states)
    memory_pools = declare_memory_pools(graph, memories)
    time_major = graph.op("Transpose", source, perm=[1, 0])
    embedded = emit_embedding(graph, "source_embedding", to_numpy(model.source_embedding.weight), time_major)
    outputs, final = emit_stack(graph, "encoder", model.encoder, [embedded], lengths, None, as_float=True)
    memory = graph.op("Transpose", graph.widen(emit_concat(graph, outputs)), perm=[1, 0, 2])  # (B, S, M)
    keys = emit_keys(graph, "attention", model.attention, memory)
    scatter_states(graph, states, state_pools, write_slots, _emit_bridge(graph, model, final))
    scatter_memories(graph, memories, memory_pools, source_rows, [memory, keys])


def _emit_bridge(graph: GraphBuilder, model: EncoderDecoder, final: list[str]) -> list[str]:
    """Initial states of the decoder, (B, H) each, from the final ones of the encoder."""
    per_layer = model.encoder.num_states // model.encoder.layers
    hidden = final[-per_layer:][: model.encoder.directions]
    top = [Activation(state, model.config.hidden) for state in hidden]
    bridged = emit_linear(graph, "bridge", top, to_numpy(model.bridge.weight), to_numpy(model.bridge.bias))
    chunks = graph.split(bridged, model.num_states, axis=-1)
    is_lstm = model.config.cell == "lstm"
    return [chunk if is_lstm and i % 2 == 1 else graph.op("Tanh", chunk) for i, chunk in enumerate(chunks)]


def _emit_step(
    graph: GraphBuilder,
    model: EncoderDecoder,
    states: tuple[StateSpec, ...],
    memories: tuple[MemorySpec, ...],
    top_k: int,
) -> None:
    tokens = graph.input("tokens", "int64", ("B",))
    read_slots = graph.input("read_slots", "int64", ("B",))
    write_slots = graph.input("write_slots", "int64", ("B",))
    source_rows = graph.input("source_rows", "int64", ("B", "S"))
    source_lengths = graph.input("source_lengths", "int64", ("B",))
    state_pools = declare_state_pools(graph, states)
    memory_pools = declare_memory_pools(graph, memories)
    held = gather(graph, state_pools, read_slots)
    old = [graph.narrow(state) for state in held]
    memory, keys = gather(graph, memory_pools, source_rows)
    per_layer = model.cells[-1].num_states
    read = emit_attention(graph, "attention", model.attention, held[-per_layer], memory, keys, source_lengths)
    context = Activation(graph.narrow(read), model.memory_size)
    embedded = emit_embedding(graph, "target_embedding", to_numpy(model.target_embedding.weight), tokens)  # (B, E)
    inputs = [embedded, context]
    new: list[str] = []
    for layer, cell in enumerate(model.cells):
        mine = old[layer * per_layer : (layer + 1) * per_layer]
        new += emit_step(graph, f"decoder.{layer}", CellWeights.from_cell(cell), inputs, mine)
        inputs = [Activation(new[-per_layer], model.config.hidden)]
    logits = _emit_read_out(graph, model, [*inputs, context, embedded])
    emit_top(graph, emit_next_log_probs(graph, logits, model.target_size), min(top_k, model.target_size))
    scatter_states(graph, states, state_pools, write_slots, new)


def _emit_read_out(graph: GraphBuilder, model: EncoderDecoder, inputs: Sequence[Activation]) -> str:
    """Logits (B, V) float32 from the top hidden state, the context and the embedded word."""
    read = emit_linear(graph, "readout", inputs, to_numpy(model.readout.weight), to_numpy(model.readout.bias))
    squashed = [Activation(graph.op("Tanh", read), model.config.hidden)]
    weight, bias = to_numpy(model.output.weight), to_numpy(model.output.bias)
    return graph.widen(emit_linear(graph, "output", squashed, weight, bias))
