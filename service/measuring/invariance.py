"""A proof, made when a model is loaded, that who shares a batch does not matter on this machine.

Made-up rows are run alone and among random batch-mates, some of them as extreme as states get, at every batch size that
is used; what comes out and what lies in the pools afterwards must be the same bit for bit. A kernel that rounds
differently for other shapes shows up, and so does quantisation with one scale for a whole batch, where one caller's
values change another's answer. Chunks are held against as many steps.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export.manifest import DType, GraphKind, Manifest
from service.measuring.rehearsal import PooledRunner, Rehearsal, Result, Row
from service.measuring.variance import Variance, difference

_NUM_WATCHED: Final = 3  # rows of a batch that are compared with themselves alone
_LONGEST: Final = 8  # positions of a source or a sequence
_MOST_TOKENS: Final = 256  # of a batch of those, rows times longest: loading a model must not take long
_CHUNKS: Final = (3, 8)  # time steps
_MOST_CHUNK_STEPS: Final = 64  # rows times steps, but for the largest


def batch_sizes(max_rows: int) -> tuple[int, ...]:
    """The sizes to try for batches of up to max_rows: small ones, powers of two, and some odd ones between."""
    sizes = {1, 2, 3, 5, 13, max_rows}
    power = 4
    while power <= max_rows:
        sizes.add(power)
        power *= 2
    return tuple(sorted(size for size in sizes if size <= max_rows))


def probe_invariance(
    runner: PooledRunner,
    sizes: Sequence[int],
    num_ids: Mapping[str, int] | None = None,
    seed: int = 0,
    budget_s: float = 0.5,
    tf32: bool = False,
) -> tuple[Variance, ...]:
    """Prove that the answers of a model do not depend on the batch.

    Args:
        runner: Just opened, and used by nobody else meanwhile; its pools are left zero.
        sizes: Rows of the batches to try; each is tried once at least.
        num_ids: By graph input, how many ids it knows; of those left out the 4 that every vocabulary has are used.
        seed: Of the rows.
        budget_s: Seconds; further rows are tried as long as they fit in.
        tf32: Whether the runner rounds factors of products to TF32.

    Returns:
        What does not hold, one for each output of a graph; nothing if all does.
    """
    findings = _Findings(runner.manifest, tf32)
    rehearsal = Rehearsal(runner, num_ids or {}, np.random.default_rng(seed))
    start_s = time.monotonic()
    number, took_s = 0, 0.0
    try:
        while number == 0 or took_s * (number + 1) / number < budget_s:
            generator = np.random.default_rng((seed, number))
            for kind in runner.manifest.graphs:
                if kind == "chunk":
                    _probe_chunks(rehearsal, sizes, generator, findings)
                else:
                    _probe(rehearsal, kind, sizes, generator, findings)
            number, took_s = number + 1, time.monotonic() - start_s
    finally:
        rehearsal.restore()
    return findings.found()


class _Findings:
    """What was different, gathered for each output.

    Args:
        manifest: Of the model.
        tf32: As of `probe_invariance`.
    """

    def __init__(self, manifest: Manifest, tf32: bool) -> None:
        self._tf32 = tf32
        self._dtypes: dict[str, DType] = {t.name: t.dtype for spec in manifest.graphs.values() for t in spec.outputs}
        self._dtypes |= {f"state:{state.name}": state.dtype for state in manifest.states}
        self._dtypes |= {f"memory:{memory.name}": memory.dtype for memory in manifest.memories}
        self._found: dict[tuple[str, str], Variance] = {}

    def compare(self, what: str, size: int, alone: Sequence[Result], place: int, got: Result) -> None:
        """Note the outputs of one of some rows that differ in any bit; those that only one has are not looked at."""
        expected = alone[place]
        for name in expected.keys() & got.keys():
            if expected[name].shape == got[name].shape and _same(expected[name], got[name]):
                continue
            likes = [result[name] for result in alone]
            most, is_far = difference(self._dtypes[name], expected[name], got[name], likes, self._tf32)
            before = self._found.get((what, name), Variance(what, name, (), 0.0, False))
            sizes = tuple(sorted({*before.sizes, size}))
            variance = Variance(what, name, sizes, max(most, before.most), is_far or before.is_far)
            self._found[what, name] = variance

    def found(self) -> tuple[Variance, ...]:
        """The findings, sorted."""
        return tuple(self._found[key] for key in sorted(self._found))


def _same(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Whether all bits are the same; of text, all characters."""
    return one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()


def _probe(
    rehearsal: Rehearsal, kind: GraphKind, sizes: Sequence[int], generator: np.random.Generator, findings: _Findings
) -> None:
    longest = 1 if kind == "step" and not rehearsal.attends else _LONGEST
    watched = [_make(rehearsal, kind, longest, generator) for _ in range(_NUM_WATCHED)]
    alone = [rehearsal.run(kind, [row])[0] for row in watched]
    for size in sizes:
        if kind != "step" and size * longest > _MOST_TOKENS:
            continue
        mates = [_make(rehearsal, kind, longest, generator) for _ in range(size)]
        for place, got in _in_company(rehearsal, kind, watched, mates, generator):
            findings.compare(kind, size, alone, place, got)


def _probe_chunks(
    rehearsal: Rehearsal, sizes: Sequence[int], generator: np.random.Generator, findings: _Findings
) -> None:
    for length in _CHUNKS:
        watched = [rehearsal.make("chunk", length, _toss(generator)) for _ in range(_NUM_WATCHED)]
        stepped = [_in_steps(rehearsal, row) for row in watched]
        largest = max(sizes) // length
        for size in sorted({size for size in sizes if size * length <= _MOST_CHUNK_STEPS} | {largest} - {0}):
            mates = [rehearsal.make("chunk", length, _toss(generator)) for _ in range(size)]
            for place, got in _in_company(rehearsal, "chunk", watched, mates, generator):
                findings.compare("chunk against steps", size, stepped, place, got)


def _in_company(
    rehearsal: Rehearsal, kind: GraphKind, watched: Sequence[Row], mates: list[Row], generator: np.random.Generator
) -> list[tuple[int, Result]]:
    """Put watched rows in the places of some mates; give the results of those that have one, by their number."""
    room = min(len(mates), rehearsal.max_rows(kind))
    places = generator.permutation(room)[: len(watched)].tolist()
    first = int(generator.integers(len(watched)))
    chosen = [(first + i) % len(watched) for i in range(len(places))]
    rows = list(mates)
    for number, place in zip(chosen, places, strict=True):
        rows[place] = watched[number]
    results = rehearsal.run(kind, rows)
    return [(number, results[place]) for number, place in zip(chosen, places, strict=True) if place < len(results)]


def _in_steps(rehearsal: Rehearsal, row: Row) -> Result:
    """What as many single steps, alone, give for a row of a chunk."""
    state, results = row.state, []
    for time_step in range(row.length):
        inputs = {name: values[time_step] for name, values in row.inputs.items()}
        [result] = rehearsal.run("step", [Row(inputs, 1, state, {})])
        results.append(result)
        state = {name: result[f"state:{name}"] for name in row.state}
    outputs = {name: np.stack([result[name] for result in results]) for name in results[0] if ":" not in name}
    return outputs | {name: value for name, value in results[-1].items() if name.startswith("state:")}


def _make(rehearsal: Rehearsal, kind: GraphKind, longest: int, generator: np.random.Generator) -> Row:
    return rehearsal.make(kind, int(generator.integers(1, longest + 1)), _toss(generator))


def _toss(generator: np.random.Generator) -> bool:
    return bool(generator.integers(2))
