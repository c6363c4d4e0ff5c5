"""Random inputs of the graphs of our own models, as the service would make them."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export.manifest import GraphSpec, Manifest

Array = npt.NDArray[Any]
LENGTH: Final = 7  # T: time steps of a sequence or a chunk
_CHARACTERS: Final = 5  # C, of the longest word
SOURCE: Final = 6  # S, of the longest source
_NUM_IDS: Final = 8  # ids are below it; every vocabulary and set of tags has as many
FIRST_ROW: Final = 2  # of the pools: 0 is the initial state or zeros, 1 is scratch


def slots_of(rows: int) -> Array:
    """The slots of so many sessions, (rows,)."""
    return np.arange(FIRST_ROW, FIRST_ROW + rows, dtype=np.int64)


def source_rows_of(rows: int) -> Array:
    """Rows of the attention memory of so many requests, (rows, SOURCE)."""
    return np.arange(FIRST_ROW, FIRST_ROW + rows * SOURCE, dtype=np.int64).reshape(rows, SOURCE)


def draw(
    graph: GraphSpec, manifest: Manifest, rows: int, generator: np.random.Generator, given: Mapping[str, Array]
) -> dict[str, Array]:
    """Make inputs for a run.

    Args:
        graph: Which.
        manifest: Of its bundle.
        rows: B.
        generator: Of what is random: ids, initial states and, after the first row, lengths.
        given: Inputs that are not to be drawn; those that the graph does not have are left out.
    """
    sizes = {"B": rows, "T": LENGTH, "C": _CHARACTERS, "S": SOURCE}
    longest = {"lengths": sizes["S" if "source" in {t.name for t in graph.inputs} else "T"]}
    longest |= {"word_lengths": _CHARACTERS, "source_lengths": SOURCE}
    pools = {state.pool_input for state in manifest.states} | {memory.pool_input for memory in manifest.memories}
    inputs: dict[str, Array] = {}
    for tensor in graph.inputs:
        if tensor.name in pools:
            continue
        shape = tuple(sizes[d] if isinstance(d, str) else d for d in tensor.shape)
        if tensor.name in given:
            inputs[tensor.name] = given[tensor.name]
        elif tensor.name in longest:
            inputs[tensor.name] = generator.integers(1, longest[tensor.name] + 1, shape).astype(tensor.dtype)
            inputs[tensor.name].flat[0] = longest[tensor.name]
        elif tensor.dtype == "int64":
            inputs[tensor.name] = generator.integers(0, _NUM_IDS, shape).astype(tensor.dtype)
        else:
            inputs[tensor.name] = generator.uniform(-1, 1, shape).astype(tensor.dtype)
    return inputs
