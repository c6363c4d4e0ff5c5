"""What a recurrent step is best made of: ONNX's nodes, primitive operators, or these with a folded embedding.

    python -m bench.cells                         on the CPU, one thread, about two minutes
    python -m bench.cells --provider cuda         on a GPU; add --cuda-graphs to replay captured runs

The step is an embedding, layers and their state pools, and nothing behind them: the graph parts that differ between the
variants that `carryover export --for cuda` writes. Weights are random. Every run reads and writes other rows of the
pools. Where a folded table would be over its bound, and where the seconds given do not suffice, the table has a dash.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from bench.report import Cell, Report, Row, plain, save, show
from export.emit.builder import Array, Cells, GraphBuilder
from export.emit.linear import Activation, emit_embedding
from export.emit.pools import declare_state_pools, gather_states, scatter_states, state_spec
from export.emit.primitive import variants_of
from export.emit.recurrent import emit_step
from export.emit.weights import CellWeights
from export.manifest import Precision, StateSpec
from models import config, states
from service.runtime.options import run_options
from service.runtime.providers import CPU, CUDA, open_session

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

VOCABULARY: Final = 10_000
EMBEDDING: Final = 256
CANDIDATES: Final[tuple[Cells, ...]] = ("node", "primitive", "folded")
HIDDEN: Final = {"cpu": (128, 256, 512, 1024), "cuda": (128, 256, 512, 1024, 2048)}
ROWS: Final = {"cpu": (1, 16, 64, 256), "cuda": (1, 16, 64, 256, 1024, 4096)}
_RESERVED: Final = 2  # the initial state and scratch
_LEAST_RUNS: Final = 3


def emit_cells(cell: config.Cell, hidden: int, layers: int, precision: Precision, cells: Cells) -> GraphBuilder | None:
    """Emit the step; None where it would have no such variant."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(hidden), np.float32)

    gates = (4 if cell == "lstm" else 3) * hidden
    weights = [
        CellWeights(
            cell, draw(gates, EMBEDDING if layer == 0 else hidden), draw(gates, hidden), draw(gates), draw(gates)
        )
        for layer in range(layers)
    ]
    if cells not in ("node", *variants_of(weights[0], VOCABULARY)):
        return None
    graph = GraphBuilder("step", precision, cells=cells)
    tokens, reads, writes = (graph.input(name, "int64", ("B",)) for name in ("tokens", "read_slots", "write_slots"))
    specs = _states(cell, hidden, layers)
    pools = declare_state_pools(graph, specs)
    old = gather_states(graph, pools, reads)
    per_layer = len(specs) // layers
    value = emit_embedding(graph, "embedding", draw(VOCABULARY, EMBEDDING), tokens)
    new: list[str] = []
    for layer, one in enumerate(weights):
        new += emit_step(graph, f"layer.{layer}", one, [value], old[layer * per_layer : (layer + 1) * per_layer])
        value = Activation(new[-per_layer], hidden)
    scatter_states(graph, specs, pools, writes, new)
    return graph


def _states(cell: config.Cell, hidden: int, layers: int) -> list[StateSpec]:
    names = states.state_names(cell, layers, bidirectional=False)
    return [state_spec(name, hidden, pooled=True, sequence=False) for name in names]


class Step:
    """One candidate, opened: pools bound in place, on the device that runs it.

    Args:
        path: The graph.
        specs: Its states.
        options: Of the command.
        num_slots: Rows of the pools.
    """

    def __init__(self, path: Path, specs: Sequence[StateSpec], options: argparse.Namespace, num_slots: int) -> None:
        self._device = options.provider
        provider = CPU if self._device == "cpu" else CUDA
        captured = options.cuda_graphs and self._device == "cuda"
        self._session = open_session(path, provider, options.threads, cuda_graphs=captured, tf32=options.tf32)
        self._captured = captured
        # With one thread a run computes on this one, whose own time does not count who else had the core.
        self._clock = time.thread_time if provider == CPU and options.threads == 1 else time.perf_counter
        self._specs = specs
        self._num_slots = num_slots
        self._pools = {spec.name: self._place(np.zeros((num_slots, *spec.shape), np.float32)) for spec in specs}

    def _place(self, array: Array) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    def seconds(self, rows: int, budget_s: float) -> float:
        """The least that a run of a batch took, of as many as fit the budget."""
        rng = np.random.default_rng(rows)
        slots = _RESERVED + rng.permutation(self._num_slots - _RESERVED)[:rows]
        feeds = {"tokens": rng.integers(0, VOCABULARY, rows), "read_slots": slots, "write_slots": slots}
        held = {name: self._place(array) for name, array in feeds.items()}
        binding = self._session.io_binding()
        for name, value in held.items():
            binding.bind_ortvalue_input(name, value)
        for spec in self._specs:
            binding.bind_ortvalue_input(str(spec.pool_input), self._pools[spec.name])
            binding.bind_ortvalue_output(str(spec.pool_output), self._pools[spec.name])
        options = run_options(str(rows)) if self._captured else run_options()
        self._session.run_with_iobinding(binding, options)  # allocates, and captures
        least, spent, runs = float("inf"), 0.0, 0
        while runs < _LEAST_RUNS or spent < budget_s:
            before = self._clock()
            self._session.run_with_iobinding(binding, options)
            took = self._clock() - before
            least, spent, runs = min(least, took), spent + took, runs + 1
        return least


def measure(options: argparse.Namespace, console: Console) -> Report:
    """Time every candidate at every width and number of rows, as far as the seconds go."""
    until = time.perf_counter() + options.seconds
    figures = len(options.hidden) * len(options.rows) * len(CANDIDATES)
    each = options.seconds / figures / 2 if options.each is None else options.each
    table: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for hidden in options.hidden:
            steps = {name: _open(Path(folder), hidden, name, options) for name in CANDIDATES}
            for rows in options.rows:
                seconds: dict[str, float] = {}
                for name, step in steps.items():
                    if step is not None and time.perf_counter() < until:
                        seconds[name] = step.seconds(rows, each)
                table.append(_row(hidden, rows, seconds))
                console.print(f"hidden {hidden}, {rows} rows: {table[-1]['quickest']}", style="dim")
    where = "CPU" if options.provider == "cpu" else "CUDA" + (", captured" if options.cuda_graphs else "")
    title = f"{options.layers} {options.cell} layers, {options.precision}, {where}: ms a step"
    notes = [
        f"embedding {VOCABULARY:,} x {EMBEDDING}, no output layer; the least of runs of {each:.2f} s, onnxruntime "
        f"{ort.__version__}, {options.threads} threads"
    ]
    return Report(f"cells-{options.provider}", title, table, notes, {"options": plain(options)})


def _open(folder: Path, hidden: int, cells: Cells, options: argparse.Namespace) -> Step | None:
    graph = emit_cells(options.cell, hidden, options.layers, options.precision, cells)
    if graph is None:
        return None
    path = folder / f"{hidden}.{cells}.onnx"
    path.write_bytes(graph.build().SerializeToString())
    specs = _states(options.cell, hidden, options.layers)
    step = Step(path, specs, options, _RESERVED + 2 * max(options.rows))
    path.unlink()
    return step


def _row(hidden: int, rows: int, seconds: dict[str, float]) -> Row:
    timed: dict[str, Cell] = {
        f"{name} ms": round(1e3 * seconds[name], 4) if name in seconds else None for name in CANDIDATES
    }
    best = min(seconds, key=lambda name: seconds[name], default=None)
    gain = round(seconds["node"] / seconds[best], 2) if best is not None and "node" in seconds else None
    return {"hidden": hidden, "rows": rows, **timed, "quickest": best, "node / quickest": gain}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="bench.cells", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cell", choices=("lstm", "gru"), default="lstm")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--hidden", type=_numbers, help="widths, with commas between")
    parser.add_argument("--rows", type=_numbers, help="rows of a batch, with commas between")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime on the CPU")
    parser.add_argument("--tf32", action="store_true", help="let a GPU round factors of products to ten bits")
    parser.add_argument("--cuda-graphs", action="store_true", help="capture each run once and replay it")
    parser.add_argument("--seconds", type=float, default=120.0, help="after which nothing more is timed")
    parser.add_argument("--each", type=float, help="seconds of runs behind a figure; left out: half of its share")
    parser.add_argument("--out", type=Path, help="folder for a JSON file")
    options = parser.parse_args(arguments)
    options.hidden = options.hidden or HIDDEN[options.provider]
    options.rows = options.rows or ROWS[options.provider]
    if options.provider == "cuda" and CUDA not in ort.get_available_providers():
        print(f"bench.cells: expected {CUDA}, got an ONNX Runtime without it", file=sys.stderr)
        return 3
    console = Console() if sys.stdout.isatty() else Console(width=120)
    report = measure(options, console)
    show(report, console)
    if options.out:
        save(report, options.out, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
