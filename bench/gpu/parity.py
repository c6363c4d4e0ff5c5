"""Every exported family on the card against the processor: answers, states and memories, and where each node runs.

The same inputs go through both, states carried along: a sequence from random states; an encoded source and then steps,
or steps from the initial state; a chunk from where these left off. What is compared is what the service reads: outputs
of real positions, and the rows of the pools that were written.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench.gpu import inputs, models
from bench.gpu.opened import Opened, open_bundle, open_plain
from bench.gpu.plan import PARITY_LIMITS, Context
from bench.gpu.raw import open_raw
from bench.report import Row
from export.manifest import GraphKind, GraphSpec, Manifest, Variant, variants, with_variant
from service.runtime.placement import working_nodes

Array = npt.NDArray[Any]
_LIMITS: Final = ", ".join(f"{limit:g} in {precision}" for precision, limit in PARITY_LIMITS.items())
ANSWERS: Final = f"parity: the largest absolute difference from the processor (limits: {_LIMITS})"
NODES: Final = "placement: where the nodes of each graph run"
ROWS: Final = (1, 5, 64)  # of a batch
_FEW: Final = 8  # rows up to which every step is captured: a batch of one, and one of five, which is padded
_STEPS: Final = 5
_RECURRENT: Final = frozenset({"LSTM", "GRU", "RNN", "Scan", "Loop"})
_PRODUCTS: Final = frozenset({"MatMul", "Gemm", "MatMulInteger"})  # what a recurrence in primitive operators is made of


@dataclass
class Worst:
    """The largest differences so far.

    Args:
        by_part: By what was compared: outputs of a graph, states, memories.
        choices: Best outputs that were compared.
        other_choices: Those that are others than the processor's, which ties allow.
        captured_rows: For which steps were captured meanwhile.
    """

    by_part: dict[str, float] = field(default_factory=dict)
    choices: int = 0
    other_choices: int = 0
    captured_rows: str = "none"

    def compare(self, part: str, got: Array, expected: Array) -> None:
        """Take two arrays of one shape into account; NaN is as far off as can be."""
        if expected.dtype.kind in "iu":
            self.choices += expected.size
            self.other_choices += int((got != expected).sum())
            return
        apart = np.abs(got.astype(np.float64) - expected.astype(np.float64))
        apart[np.isnan(got) & np.isnan(expected)] = 0
        worst = float(np.where(np.isnan(apart), math.inf, apart).max(initial=0.0))
        self.by_part[part] = max(self.by_part.get(part, 0.0), worst)

    @property
    def largest(self) -> float:
        """Of all parts."""
        return max(self.by_part.values(), default=0.0)


def show(context: Context) -> None:
    """The part: what has a limit first."""
    repository, timed = models.compared(context.models), models.timed(context.models)
    small = [repository / name / "1" for name in models.made(repository)]
    if not small:
        raise FileNotFoundError("expected models to compare, got none: the table of models says why")
    large = [timed / name / "1" for name in models.made(timed)]
    for precision in models.COMPARED:
        for folder in (one for one in small if precision_of(one) == precision):
            _show_answers(context, folder)
        for folder in (one for one in (*small, *large) if precision_of(one) == precision):
            _show_nodes(context, folder)


def precision_of(folder: Path) -> str:
    """As the name of a bundle has it."""
    return folder.parent.name.rsplit("-", 1)[1]


def _show_answers(context: Context, folder: Path) -> None:
    name, limit = folder.parent.name, PARITY_LIMITS.get(precision_of(folder))
    for variant in (None, *variants(models.manifest_of(folder))):
        head: Row = {"model": name, "cells": variant or "node"}
        row = context.journal.attempt(ANSWERS, head, partial(_answers, context, folder, variant))
        worst = row["worst"] if row else None
        if isinstance(worst, float) and limit is not None and not worst <= limit:
            got = f"{name}, {head['cells']}: expected a difference of at most {limit:g}, got {worst:g}"
            context.journal.broken(got)


def _show_nodes(context: Context, folder: Path) -> None:
    name = folder.parent.name
    for variant in (None, *variants(models.manifest_of(folder))):
        head: Row = {"model": name, "cells": variant or "node"}
        row = context.journal.attempt(NODES, head, partial(_nodes, context, folder, variant))
        if row and row["recurrent elsewhere"] != "none" and precision_of(folder) != "int8":
            context.journal.broken(f"{name}, {head['cells']}: not on the card: {row['recurrent elsewhere']}")


def _answers(context: Context, folder: Path, variant: Variant | None) -> Row:
    context.budget.need(1.0)
    all_sizes = variant is None and precision_of(folder) == "fp32"
    worst = compare(folder, context.provider, ROWS, variant, captured=max(ROWS) if all_sizes else _FEW)
    return {
        "worst": worst.largest,
        **{part: worst.by_part.get(part) for part in ("sequence", "step", "chunk", "states", "memories")},
        "choices": worst.choices,
        "other choices": worst.other_choices,
        "captured rows": worst.captured_rows,
    }


def compare(
    folder: Path, provider: str, all_rows: Sequence[int], variant: Variant | None = None, captured: int = 64
) -> Worst:
    """Run a bundle on a provider and on the processor, plainly, and compare.

    Args:
        folder: The bundle.
        provider: Of ONNX Runtime.
        all_rows: Sizes of batches.
        variant: Of the step, on the provider; the processor runs the graphs as they are.
        captured: Rows of a batch up to which steps are captured on the provider, each size of which takes a while.
    """
    manifest, worst = models.manifest_of(folder), Worst()
    slots = max(all_rows) + inputs.FIRST_ROW
    memory_rows = max(16, slots * inputs.SOURCE)
    with (
        open_bundle(folder, provider, slots, memory_rows, variant=variant, max_rows=captured) as device,
        open_plain(folder, slots, memory_rows) as plain,
    ):
        for rows in all_rows:
            _course(manifest, device, plain, rows, np.random.default_rng(rows), worst)
        worst.captured_rows = device.captured_rows()
    return worst


def _course(
    manifest: Manifest, device: Opened, plain: Opened, rows: int, generator: np.random.Generator, worst: Worst
) -> None:
    """One batch's way through all graphs."""
    slots, memory = inputs.slots_of(rows), inputs.source_rows_of(rows)
    lengths = generator.integers(1, inputs.SOURCE + 1, rows)
    real = np.arange(inputs.SOURCE) < lengths[:, None]
    places = {"read_slots": np.zeros_like(slots), "write_slots": slots}
    source = {"lengths": lengths, "source_lengths": lengths, "source_rows": np.where(real, memory, 1)}
    for kind, spec in _course_of(manifest):
        given = {**places, **source} if kind == "encode" else places
        if kind == "step" and manifest.memories:
            given = {**places, "source_lengths": lengths, "source_rows": np.where(real, memory, 0)}
        fed = inputs.draw(spec, manifest, rows, generator, given)
        pools = {state.pool_output for state in manifest.states} | {m.pool_output for m in manifest.memories}
        wanted = tuple(tensor.name for tensor in spec.outputs if tensor.name not in pools)
        got, expected = device.run(kind, fed, wanted), plain.run(kind, fed, wanted)
        for name in wanted:
            worst.compare(kind, _real(got[name], fed), _real(expected[name], fed))
        if kind != "sequence":
            places = {"read_slots": slots, "write_slots": slots}
    got, expected = device.runner.read_rows(slots.tolist()), plain.runner.read_rows(slots.tolist())
    for name in expected:
        worst.compare("states", got[name], expected[name])
    if manifest.memories:
        used = np.unique(memory[real]).tolist()
        got, expected = device.runner.read_memory(used), plain.runner.read_memory(used)
        for name in expected:
            worst.compare("memories", got[name], expected[name])


def _course_of(manifest: Manifest) -> Iterator[tuple[GraphKind, GraphSpec]]:
    """The runs, in order."""
    order: tuple[tuple[GraphKind, int], ...] = (("sequence", 1), ("encode", 1), ("step", _STEPS), ("chunk", 1))
    for kind, times in order:
        if kind in manifest.graphs:
            yield from [(kind, manifest.graphs[kind])] * times


def _real(output: Array, fed: dict[str, Array]) -> Array:
    """An output without what stands at padding: (B, T, ...) -> (real positions, ...)."""
    lengths = fed.get("lengths")
    if lengths is None or output.ndim < 2 or output.shape[1] != inputs.LENGTH:
        return output
    return output[np.arange(inputs.LENGTH) < lengths[:, None]]


def _nodes(context: Context, folder: Path, variant: Variant | None) -> Row:
    """Of all graphs of a bundle as a variant: how many nodes run here, and which do not."""
    context.budget.need(0.5)
    here, everywhere = 0, 0
    recurrent: list[str] = []
    work: list[str] = []
    for kind, spec in with_variant(models.manifest_of(folder), variant).graphs.items():
        session = open_raw(folder / spec.file, context.provider)
        for part in session.get_provider_graph_assignment_info():
            nodes = part.get_nodes()
            everywhere += len(nodes)
            if part.ep_name == context.provider:
                here += len(nodes)
                continue
            recurrent += [f"{kind} {node.op_type}" for node in nodes if node.op_type in _RECURRENT | _PRODUCTS]
            work += [f"{kind} {node}" for node in working_nodes([part], part.ep_name)]
    return {
        "nodes": everywhere,
        "here": here,
        "recurrent elsewhere": ", ".join(sorted(set(recurrent))) or "none",
        "work elsewhere": ", ".join(work[:3]) + (f" and {len(work) - 3} more" if len(work) > 3 else "") or "none",
    }
