"""State and memory pools as graph inputs and outputs.

Bound to one buffer, a pool's input and output are updated in place: `ScatterND` copies nothing then. Every pool's
`Gather` must come before its `ScatterND`, which holds as long as what is scattered is computed from what was gathered.
"""

from collections.abc import Sequence

from export.emit.builder import GraphBuilder
from export.manifest import MemorySpec, StateSpec


def state_spec(name: str, width: int, pooled: bool, sequence: bool) -> StateSpec:
    """Describe a recurrent state.

    Args:
        name: As in `models.states.state_names`.
        width: H.
        pooled: Whether a step or encode graph keeps it in a pool.
        sequence: Whether a sequence graph takes and returns it.
    """
    return StateSpec(
        name=name,
        dtype="float32",
        shape=(width,),
        pool_input=f"{name}_pool" if pooled else None,
        pool_output=f"{name}_pool_out" if pooled else None,
        sequence_input=f"initial_{name}" if sequence else None,
        sequence_output=f"final_{name}" if sequence else None,
    )


def memory_spec(name: str, width: int) -> MemorySpec:
    """Describe an attention memory whose rows are `width` wide."""
    return MemorySpec(
        name=name, dtype="float32", shape=(width,), pool_input=f"{name}_pool", pool_output=f"{name}_pool_out"
    )


def declare_state_pools(graph: GraphBuilder, states: Sequence[StateSpec]) -> list[str]:
    """Declare the pools (N, H) as inputs."""
    return [graph.input(str(state.pool_input), state.dtype, ("N", *state.shape)) for state in states]


def declare_memory_pools(graph: GraphBuilder, memories: Sequence[MemorySpec]) -> list[str]:
    """Declare the pools (P, width) as inputs."""
    return [graph.input(memory.pool_input, memory.dtype, ("P", *memory.shape)) for memory in memories]


def gather(graph: GraphBuilder, pools: Sequence[str], rows: str) -> list[str]:
    """Read rows (...,) of each pool: (..., width)."""
    return [graph.op("Gather", pool, rows, axis=0) for pool in pools]


def gather_states(graph: GraphBuilder, pools: Sequence[str], slots: str) -> list[str]:
    """Read rows `slots` (B,) of each state's pool, which is float32, in the type of the arithmetic: (B, H)."""
    return [graph.narrow(rows) for rows in gather(graph, pools, slots)]


def scatter_states(
    graph: GraphBuilder, states: Sequence[StateSpec], pools: Sequence[str], slots: str, values: Sequence[str]
) -> None:
    """Write values (B, H) of the arithmetic to rows `slots` (B,) of each pool and make the pools outputs."""
    indices = graph.op("Unsqueeze", slots, graph.ints(-1))
    for state, pool, value in zip(states, pools, values, strict=True):
        updated = graph.op("ScatterND", pool, indices, graph.widen(value))
        graph.output(updated, str(state.pool_output), state.dtype, ("N", *state.shape))


def scatter_memories(
    graph: GraphBuilder, memories: Sequence[MemorySpec], pools: Sequence[str], rows: str, values: Sequence[str]
) -> None:
    """Write values (B, S, width) to rows (B, S) of each pool and make the pools outputs."""
    indices = graph.op("Unsqueeze", rows, graph.ints(-1))
    for memory, pool, value in zip(memories, pools, values, strict=True):
        updated = graph.op("ScatterND", pool, indices, value)
        graph.output(updated, memory.pool_output, memory.dtype, ("P", *memory.shape))
