"""Graphs of the encoder-decoder: `encode` reads sources, `step` advances targets by one token."""

from export.emit.attention import emit_attention, emit_keys
from export.emit.builder import GraphBuilder
from export.emit.emitted import EmittedModel
from export.emit.linear import Part, concatenate, emit_linear
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
from export.emit.recurrent import emit_stack, emit_step
from export.emit.weights import CellWeights, to_numpy
from export.manifest import MemorySpec, StateSpec
from models.encoder_decoder import EncoderDecoder
from models.states import state_names

_INT32 = 6  # onnx.TensorProto.INT32


def emit_encoder_decoder(model: EncoderDecoder, top_k: int) -> EmittedModel:
    """Emit both graphs, fp32.

    Args:
        model: The trained module.
        top_k: Best next tokens that a step returns.
    """
    config = model.config
    names = state_names(config.cell, config.decoder_layers, bidirectional=False)
    states = tuple(state_spec(name, config.hidden, pooled=True, sequence=False) for name in names)
    memories = (memory_spec("memory", model.memory_size), memory_spec("keys", config.attention_dim))
    encode, step = _emit_encode(model, states, memories), _emit_step(model, states, memories, top_k)
    return EmittedModel(
        graphs={"encode": encode.build(), "step": step.build()},
        specs={"encode": encode.spec(), "step": step.spec()},
        states=states,
        memories=memories,
    )


def _emit_encode(
    model: EncoderDecoder, states: tuple[StateSpec, ...], memories: tuple[MemorySpec, ...]
) -> GraphBuilder:
    graph = GraphBuilder("encode")
    source = graph.input("source", "int64", ("B", "S"))
    lengths = graph.op("Cast", graph.input("lengths", "int64", ("B",)), to=_INT32)
    source_rows = graph.input("source_rows", "int64", ("B", "S"))
    write_slots = graph.input("write_slots", "int64", ("B",))
    state_pools = declare_state_pools(graph, states)
    memory_pools = declare_memory_pools(graph, memories)
    embedding = graph.weight(to_numpy(model.source_embedding.weight), "source_embedding.weight")
    embedded = graph.op("Gather", embedding, graph.op("Transpose", source, perm=[1, 0]))  # (S, B, E)
    outputs, final = emit_stack(graph, "encoder", model.encoder, embedded, lengths, None)
    memory = graph.op("Transpose", outputs, perm=[1, 0, 2])  # (B, S, M)
    keys = emit_keys(graph, "attention", model.attention, memory)
    scatter_states(graph, states, state_pools, write_slots, _emit_bridge(graph, model, final))
    scatter_memories(graph, memories, memory_pools, source_rows, [memory, keys])
    return graph


def _emit_bridge(graph: GraphBuilder, model: EncoderDecoder, final: list[str]) -> list[str]:
    """Initial states of the decoder, (B, H) each, from the final ones of the encoder."""
    per_layer = model.encoder.num_states // model.encoder.layers
    top = concatenate(graph, final[-per_layer:][: model.encoder.directions])  # (B, M)
    bridged = emit_linear(graph, "bridge", [Part(top, to_numpy(model.bridge.weight))], to_numpy(model.bridge.bias))
    chunks = graph.split(bridged, model.num_states, axis=-1)
    is_lstm = model.config.cell == "lstm"
    return [chunk if is_lstm and i % 2 == 1 else graph.op("Tanh", chunk) for i, chunk in enumerate(chunks)]


def _emit_step(
    model: EncoderDecoder, states: tuple[StateSpec, ...], memories: tuple[MemorySpec, ...], top_k: int
) -> GraphBuilder:
    graph = GraphBuilder("step")
    tokens = graph.input("tokens", "int64", ("B",))
    read_slots = graph.input("read_slots", "int64", ("B",))
    write_slots = graph.input("write_slots", "int64", ("B",))
    source_rows = graph.input("source_rows", "int64", ("B", "S"))
    source_lengths = graph.input("source_lengths", "int64", ("B",))
    state_pools = declare_state_pools(graph, states)
    memory_pools = declare_memory_pools(graph, memories)
    old = gather(graph, state_pools, read_slots)
    memory, keys = gather(graph, memory_pools, source_rows)
    per_layer = model.cells[-1].num_states
    context = emit_attention(graph, "attention", model.attention, old[-per_layer], memory, keys, source_lengths)
    embedding = graph.weight(to_numpy(model.target_embedding.weight), "target_embedding.weight")
    embedded = graph.op("Gather", embedding, tokens)  # (B, E)
    value = concatenate(graph, [embedded, context])
    new: list[str] = []
    for layer, cell in enumerate(model.cells):
        mine = old[layer * per_layer : (layer + 1) * per_layer]
        new += emit_step(graph, f"decoder.{layer}", CellWeights.from_cell(cell), value, mine)
        value = new[-per_layer]
    logits = _emit_read_out(graph, model, value, context, embedded)
    emit_top(graph, emit_next_log_probs(graph, logits, model.target_size), min(top_k, model.target_size))
    scatter_states(graph, states, state_pools, write_slots, new)
    return graph


def _emit_read_out(graph: GraphBuilder, model: EncoderDecoder, hidden: str, context: str, embedded: str) -> str:
    """Logits (B, V)."""
    joined = concatenate(graph, [hidden, context, embedded])
    read = emit_linear(graph, "readout", [Part(joined, to_numpy(model.readout.weight))], to_numpy(model.readout.bias))
    part = Part(graph.op("Tanh", read), to_numpy(model.output.weight))
    return emit_linear(graph, "output", [part], to_numpy(model.output.bias))
