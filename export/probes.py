"""Random inputs for a model's graphs, made from what its manifest says of them.

Batches are ragged and hold a row of length 1; what lies past a row's end is random too, so that a graph that reads it
is found out. Slots and memory rows come in random order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from export.backend import Array, Feeds, Ints
from export.manifest import GraphKind, GraphSpec, Manifest, MemorySpec, StateSpec, Task, TensorSpec

MAX_CHARACTERS: Final = 12
# Which vocabulary the ids of an input belong to.
_ROLES: Final[Mapping[Task, Mapping[str, str]]] = {
    "tagger": {"words": "words", "characters": "characters"},
    "encoder_decoder": {"source": "source", "tokens": "target"},
    "language_model": {"tokens": "tokens", "targets": "tokens"},
}


@dataclass(frozen=True)
class Probes:
    """Makes random feeds.

    Args:
        manifest: Of the bundle.
        vocabulary_sizes: By role.
        rng: Where randomness comes from.
    """

    manifest: Manifest
    vocabulary_sizes: Mapping[str, int]
    rng: np.random.Generator

    def lengths(self, num_rows: int, longest: int) -> Ints:
        """Lengths (B,) of at least 1: one row is `longest`, another is 1, the rest are anything between."""
        lengths = self.rng.integers(1, longest + 1, num_rows)
        lengths[0] = longest
        if num_rows > 1:
            lengths[1] = 1
        return self.rng.permutation(lengths)

    def feeds(self, kind: GraphKind, known: Feeds, **sizes: int) -> dict[str, Array]:
        """Fill in every input of a graph that is not known: ids, lengths of words and initial states.

        Args:
            kind: Which graph.
            known: Inputs that are settled: lengths, slots, rows, carried states.
            sizes: Of the symbols of the shapes: B, and T or S where the graph has them.
        """
        sizes = {"C": int(self.rng.integers(1, MAX_CHARACTERS + 1)), **sizes}
        feeds = dict(known)
        for spec in inputs(self.manifest, kind):
            if spec.name in feeds:
                continue
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)
            role = _ROLES[self.manifest.task].get(spec.name)
            if role is not None:
                feeds[spec.name] = self.rng.integers(0, self.vocabulary_sizes[role], shape)
            elif spec.name == "word_lengths":
                feeds[spec.name] = self.rng.integers(1, sizes["C"] + 1, shape)
            else:
                feeds[spec.name] = self.rng.uniform(-1, 1, shape).astype(np.float32)
        return feeds


def pool_specs(manifest: Manifest) -> tuple[StateSpec | MemorySpec, ...]:
    """The states and memories that are kept in pools."""
    return (*(state for state in manifest.states if state.pool_input is not None), *manifest.memories)


def updated_pools(manifest: Manifest, kind: GraphKind) -> tuple[str, ...]:
    """Names of the states and memories that a graph writes."""
    given = {spec.name for spec in manifest.graphs[kind].outputs}
    return tuple(spec.name for spec in pool_specs(manifest) if spec.pool_output in given)


def inputs(manifest: Manifest, kind: GraphKind) -> tuple[TensorSpec, ...]:
    """The inputs of a graph that are not pools."""
    pools = {spec.pool_input for spec in pool_specs(manifest)}
    return tuple(spec for spec in manifest.graphs[kind].inputs if spec.name not in pools)


def outputs(manifest: Manifest, kind: GraphKind) -> tuple[TensorSpec, ...]:
    """The outputs of a graph that are not pools."""
    pools = {spec.pool_output for spec in pool_specs(manifest)}
    return tuple(spec for spec in manifest.graphs[kind].outputs if spec.name not in pools)


def row_of(graph: GraphSpec, feeds: Feeds, row: int) -> dict[str, Array]:
    """Cut one row out of a batch, its padding cut away: what the graph would be fed if that row came alone.

    Returns:
        The feeds with B = 1, and T, S and C the row's own.
    """
    sizes = extents(feeds, row)
    alone = {}
    for spec in graph.inputs:
        if spec.name in feeds:
            cut = tuple(slice(sizes.get(size)) if isinstance(size, str) else slice(None) for size in spec.shape[1:])
            alone[spec.name] = np.ascontiguousarray(feeds[spec.name][(slice(row, row + 1), *cut)])
    return alone


def num_positions(graph: GraphSpec, feeds: Feeds) -> int:
    """Steps or source positions (T or S) of a batch, padding included; 1 for a graph that takes single steps."""
    sized = [(spec, symbol) for spec in graph.inputs for symbol in "TS" if symbol in spec.shape]
    return int(next((feeds[spec.name].shape[spec.shape.index(symbol)] for spec, symbol in sized), 1))


def extents(feeds: Feeds, row: int) -> dict[str, int]:
    """The true sizes of one row of a batch, by symbol; none of T for a chunk, whose rows are equally long."""
    sizes = {}
    if "lengths" in feeds:
        sizes = dict.fromkeys("TS", int(feeds["lengths"][row]))
    if "source_lengths" in feeds:
        sizes["S"] = int(feeds["source_lengths"][row])
    if "word_lengths" in feeds:
        words = feeds["word_lengths"][row]
        sizes["C"] = int(words[: sizes.get("T")].max() if words.ndim else words)
    return sizes
