"""Graphs of the language model: `sequence` scores given texts, `step` says what may come next."""

from export.emit.builder import GraphBuilder
from export.emit.emitted import EmittedModel
from export.emit.linear import Part, emit_linear
from export.emit.output import emit_next_log_probs, emit_top, never_next
from export.emit.pools import declare_state_pools, gather, scatter_states, state_spec
from export.emit.recurrent import emit_stack, emit_step
from export.emit.weights import CellWeights, to_numpy
from export.manifest import StateSpec
from models.language_model import LanguageModel
from models.output import NEVER_LOG_PROB
from models.states import state_names

_INT32 = 6  # onnx.TensorProto.INT32


def emit_language_model(model: LanguageModel, top_k: int) -> EmittedModel:
    """Emit both graphs, fp32.

    Args:
        model: The trained module.
        top_k: Best next tokens that a step returns.
    """
    config = model.config
    names = state_names(config.cell, config.layers, bidirectional=False)
    states = tuple(state_spec(name, config.hidden, pooled=True, sequence=True) for name in names)
    sequence, step = _emit_sequence(model, states), _emit_step(model, states, top_k)
    return EmittedModel(
        graphs={"sequence": sequence.build(), "step": step.build()},
        specs={"sequence": sequence.spec(), "step": step.spec()},
        states=states,
    )


def _emit_sequence(model: LanguageModel, states: tuple[StateSpec, ...]) -> GraphBuilder:
    graph = GraphBuilder("sequence")
    tokens = graph.input("tokens", "int64", ("B", "T"))
    targets = graph.input("targets", "int64", ("B", "T"))
    lengths = graph.op("Cast", graph.input("lengths", "int64", ("B",)), to=_INT32)
    initial = [graph.input(str(state.sequence_input), state.dtype, ("B", *state.shape)) for state in states]
    embedded = graph.op("Gather", _embedding(graph, model), graph.op("Transpose", tokens, perm=[1, 0]))  # (T, B, E)
    outputs, final = emit_stack(graph, "stack", model.stack, embedded, lengths, initial)
    log_probs = graph.op("LogSoftmax", _emit_logits(graph, model, outputs), axis=-1)  # (T, B, V)
    chosen = graph.op("Transpose", targets, perm=[1, 0])
    picked = graph.op("GatherElements", log_probs, graph.op("Unsqueeze", chosen, graph.ints(2)), axis=2)
    never = graph.op("Gather", never_next(graph, model.vocabulary_size), chosen)
    ruled = graph.op("Where", never, graph.scalar(NEVER_LOG_PROB), graph.op("Squeeze", picked, graph.ints(2)))
    graph.output(graph.op("Transpose", ruled, perm=[1, 0]), "target_log_probs", "float32", ("B", "T"))
    for state, value in zip(states, final, strict=True):
        graph.output(value, str(state.sequence_output), state.dtype, ("B", *state.shape))
    return graph


def _emit_step(model: LanguageModel, states: tuple[StateSpec, ...], top_k: int) -> GraphBuilder:
    graph = GraphBuilder("step")
    tokens = graph.input("tokens", "int64", ("B",))
    read_slots = graph.input("read_slots", "int64", ("B",))
    write_slots = graph.input("write_slots", "int64", ("B",))
    pools = declare_state_pools(graph, states)
    old = gather(graph, pools, read_slots)
    value = graph.op("Gather", _embedding(graph, model), tokens)  # (B, E)
    per_layer = len(states) // model.config.layers
    new: list[str] = []
    for layer in range(model.config.layers):
        weights = CellWeights.from_stack(model.stack, layer)
        new += emit_step(graph, f"stack.{layer}", weights, value, old[layer * per_layer : (layer + 1) * per_layer])
        value = new[-per_layer]
    log_probs = emit_next_log_probs(graph, _emit_logits(graph, model, value), model.vocabulary_size)
    graph.output(log_probs, "log_probs", "float32", ("B", model.vocabulary_size))
    emit_top(graph, log_probs, min(top_k, model.vocabulary_size))
    scatter_states(graph, states, pools, write_slots, new)
    return graph


def _embedding(graph: GraphBuilder, model: LanguageModel) -> str:
    return graph.weight(to_numpy(model.embedding.weight), "embedding.weight")


def _emit_logits(graph: GraphBuilder, model: LanguageModel, value: str) -> str:
    weight, bias = model.projection()
    return emit_linear(graph, "output", [Part(value, to_numpy(weight))], to_numpy(bias))
