"""Graphs of the tagger.

`sequence` scores whole sentences; where no word ahead matters, `step` tags word by word and `chunk` several words.
"""

from collections.abc import Sequence

from export.emit.builder import GraphBuilder
from export.emit.emitted import EmitGraph, EmittedModel
from export.emit.linear import Activation, emit_embedding, emit_linear
from export.emit.output import emit_top, emit_top_of_chunk
from export.emit.pools import declare_state_pools, gather_states, scatter_states, state_spec
from export.emit.primitive import variants_of
from export.emit.recurrent import emit_chunk, emit_stack, emit_step, flatten_steps
from export.emit.weights import CellWeights, to_numpy
from export.manifest import GraphKind, Precision, StateSpec, Variant
from models.states import state_names
from models.tagger import Tagger


def emit_tagger(model: Tagger, precision: Precision, top_k: int, for_cuda: bool) -> EmittedModel:
    """Emit the sequence graph and, for a unidirectional tagger without CRF, the step and chunk graphs.

    The spelling of words is read by recurrent nodes in every variant: its words differ in length.

    Args:
        model: The trained module.
        precision: Of weights and products.
        top_k: Best tags that a step returns.
        for_cuda: Whether to emit the variants of step and chunk.
    """
    config = model.config
    steps = not config.bidirectional and not config.crf
    names = state_names(config.cell, config.layers, config.bidirectional)
    states = tuple(state_spec(name, config.hidden, pooled=steps, sequence=True) for name in names)
    emitters: dict[GraphKind, EmitGraph] = {"sequence": lambda graph: _emit_sequence(graph, model, states)}
    variants: tuple[Variant, ...] = ()
    if steps:
        emitters["step"] = lambda graph: _emit_step(graph, model, states, top_k)
        emitters["chunk"] = lambda graph: _emit_chunk(graph, model, states, top_k)
        if for_cuda:
            variants = variants_of(CellWeights.from_stack(model.stack, 0), len(model.word_embedding.weight))
    return EmittedModel.build(emitters, precision, states, variants=variants)


def _emit_sequence(graph: GraphBuilder, model: Tagger, states: tuple[StateSpec, ...]) -> None:
    words = graph.input("words", "int64", ("B", "T"))
    characters = graph.input("characters", "int64", ("B", "T", "C"))
    word_lengths = graph.input("word_lengths", "int64", ("B", "T"))
    lengths = graph.input("lengths", "int64", ("B",))
    given = [graph.input(str(state.sequence_input), state.dtype, ("B", *state.shape)) for state in states]
    initial = [graph.narrow(value) for value in given]
    inputs = _emit_embedded_time_first(graph, model, words, characters, word_lengths)
    outputs, final = emit_stack(graph, "stack", model.stack, inputs, lengths, initial)
    emissions = graph.op("Transpose", _emit_scores(graph, model, outputs), perm=[1, 0, 2])
    graph.output(emissions, "emissions", "float32", ("B", "T", model.num_tags))
    for state, value in zip(states, final, strict=True):
        graph.output(graph.widen(value), str(state.sequence_output), state.dtype, ("B", *state.shape))


def _emit_step(graph: GraphBuilder, model: Tagger, states: tuple[StateSpec, ...], top_k: int) -> None:
    words = graph.input("words", "int64", ("B",))
    characters = graph.input("characters", "int64", ("B", "C"))
    word_lengths = graph.input("word_lengths", "int64", ("B",))
    read_slots = graph.input("read_slots", "int64", ("B",))
    write_slots = graph.input("write_slots", "int64", ("B",))
    pools = declare_state_pools(graph, states)
    old = gather_states(graph, pools, read_slots)
    inputs = _emit_embedded(graph, model, words, graph.op("Transpose", characters, perm=[1, 0]), word_lengths)
    per_layer = len(states) // model.config.layers
    new: list[str] = []
    for layer in range(model.config.layers):
        weights = CellWeights.from_stack(model.stack, layer)
        new += emit_step(graph, f"stack.{layer}", weights, inputs, old[layer * per_layer : (layer + 1) * per_layer])
        inputs = [Activation(new[-per_layer], model.config.hidden)]
    scores = _emit_scores(graph, model, inputs)
    emit_top(graph, graph.op("LogSoftmax", scores, axis=-1), min(top_k, model.num_tags))
    scatter_states(graph, states, pools, write_slots, new)


def _emit_chunk(graph: GraphBuilder, model: Tagger, states: tuple[StateSpec, ...], top_k: int) -> None:
    words = graph.input("words", "int64", ("B", "T"))
    characters = graph.input("characters", "int64", ("B", "T", "C"))
    word_lengths = graph.input("word_lengths", "int64", ("B", "T"))
    read_slots = graph.input("read_slots", "int64", ("B",))
    write_slots = graph.input("write_slots", "int64", ("B",))
    pools = declare_state_pools(graph, states)
    inputs = _emit_embedded_time_first(graph, model, words, characters, word_lengths)
    outputs, new = emit_chunk(graph, "stack", model.stack, inputs, gather_states(graph, pools, read_slots))
    scores = _emit_scores(graph, model, flatten_steps(graph, outputs))
    emit_top_of_chunk(graph, graph.op("LogSoftmax", scores, axis=-1), read_slots, min(top_k, model.num_tags))
    scatter_states(graph, states, pools, write_slots, new)


def _emit_embedded_time_first(
    graph: GraphBuilder, model: Tagger, words: str, characters: str, word_lengths: str
) -> list[Activation]:
    """Embed words (B, T) as `_emit_embedded` does, time first: (T, B, ...)."""
    return _emit_embedded(
        graph,
        model,
        graph.op("Transpose", words, perm=[1, 0]),
        graph.op("Transpose", characters, perm=[2, 1, 0]),
        graph.op("Transpose", word_lengths, perm=[1, 0]),
    )


def _emit_embedded(
    graph: GraphBuilder, model: Tagger, words: str, characters: str, word_lengths: str
) -> list[Activation]:
    """Embed words and their spelling.

    Args:
        graph: Where to.
        model: The trained module.
        words: (*W) int64, whatever the dimensions W of words are.
        characters: (C, *W) int64.
        word_lengths: (*W) int64.

    Returns:
        The words (*W, word_dim) and their spelling (*W, 2 character_hidden).
    """
    flat = graph.op("Flatten", characters, axis=1)  # (C, W)
    spelt = emit_embedding(graph, "character_embedding", to_numpy(model.character_embedding.weight), flat)
    lengths = graph.op("Reshape", word_lengths, graph.ints(-1))
    _, final = emit_stack(graph, "character_stack", model.character_stack, [spelt], lengths, None)
    spelling = graph.op("Concat", *final[:2], axis=-1)  # hidden states, forward and backward: (W, 2 character_hidden)
    width = model.character_stack.output_size
    shape = graph.op("Concat", graph.op("Shape", words), graph.ints(width), axis=0)
    known = emit_embedding(graph, "word_embedding", to_numpy(model.word_embedding.weight), words)
    return [known, Activation(graph.op("Reshape", spelling, shape), width)]


def _emit_scores(graph: GraphBuilder, model: Tagger, outputs: Sequence[Activation]) -> str:
    """Scores (..., K) float32."""
    return graph.widen(
        emit_linear(graph, "output", outputs, to_numpy(model.output.weight), to_numpy(model.output.bias))
    )
