"""How long runs of the graphs take on the machine at hand.

On the CPU with one intra-op thread a run computes on the thread that calls it, so that the thread's own processor time
is taken: it does not count the time in which somebody else had the core. Of a few runs the least is taken, as whatever
disturbs only ever adds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from export.manifest import GraphKind, GraphSpec, Manifest
from service.engine.pages import SCRATCH_ROW, ZERO_ROW
from service.engine.slots import INITIAL_SLOT, SCRATCH_SLOT
from service.runtime.likely import likely_batch

CPU: Final = "CPUExecutionProvider"
SOURCE_POSITIONS: Final = 16  # a source of usual length, which a step attends to
_WORD_CHARACTERS: Final = 8  # a long word; a batch is padded to its longest
_NUM_IDS: Final = 4  # the special symbols, which every vocabulary of inputs has
_MOST_RUNS: Final = 5
_PATIENCE: Final = 3.0
_ENOUGH_S: Final = 0.02  # seconds of runs after which one more says little new


class TimedRunner(Protocol):
    """What is needed of `service.runtime.runner.Runner`."""

    manifest: Manifest
    provider: str

    def run(
        self, kind: GraphKind, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str], lane: int = 0
    ) -> Mapping[str, npt.NDArray[Any]]:
        """Run a graph once, updating the pools."""


class Timing:
    """Times graphs until a budget is spent. What it runs reads the initial state and writes scratch rows only.

    Args:
        runner: Nobody else may use its lane 0 meanwhile.
        threads: Intra-op threads of the runner.
        budget_s: Seconds of runs after which no measurement is begun; or three times as many on the wall, where the
            machine is busy.
        clock: What time is; None chooses as the module docstring says.
    """

    def __init__(
        self, runner: TimedRunner, threads: int, budget_s: float, clock: Callable[[], float] | None = None
    ) -> None:
        self._runner = runner
        alone = runner.provider == CPU and threads == 1
        self._clock = clock or (time.thread_time if alone else time.perf_counter)
        self._wall = clock or time.perf_counter
        self.renew(budget_s)

    def renew(self, budget_s: float) -> None:
        """Give the measurements from now on a budget of their own."""
        self._until = self._clock() + budget_s
        self._until_wall = self._wall() + _PATIENCE * budget_s

    @property
    def spent(self) -> bool:
        """Whether nothing more is measured."""
        return self._clock() >= self._until or self._wall() >= self._until_wall

    def seconds(self, kind: GraphKind, rows: int, length: int = 1) -> float | None:
        """Time a run.

        Args:
            kind: Which graph.
            rows: B.
            length: T, or S of an encode.

        Returns:
            Seconds; None if the budget is spent.
        """
        if self.spent:
            return None
        inputs, outputs = usual_run(self._runner.manifest, kind, rows, length)
        self._runner.run(kind, inputs, outputs)  # the first run of a shape allocates
        least, spent = float("inf"), 0.0
        for _ in range(_MOST_RUNS):
            before = self._clock()
            self._runner.run(kind, inputs, outputs)
            took = self._clock() - before
            least, spent = min(least, took), spent + took
            if spent > _ENOUGH_S or self.spent:
                break
        return max(least, 1e-9)  # a clock may be too coarse to see a run of the smallest graphs


def usual_run(
    manifest: Manifest, kind: GraphKind, rows: int, length: int
) -> tuple[dict[str, npt.NDArray[Any]], tuple[str, ...]]:
    """Make inputs of a run that reads the initial state and writes scratch rows, and name the outputs usually wanted.

    Args:
        manifest: Of the bundle.
        kind: Which graph.
        rows: B.
        length: T, or S of an encode.
    """
    spec = manifest.graphs[kind]
    if manifest.imported is None:
        return _inputs(kind, spec, manifest, rows, length), _outputs(spec, manifest)
    return _imported_inputs(manifest, rows, length), _outputs(spec, manifest)


def _inputs(
    kind: GraphKind, spec: GraphSpec, manifest: Manifest, rows: int, length: int
) -> dict[str, npt.NDArray[Any]]:
    positions = length if kind == "encode" else SOURCE_POSITIONS
    sizes = {"B": rows, "T": length, "S": positions, "C": _WORD_CHARACTERS}
    # An encode writes the memory rows that a step reads.
    fixed = {
        "read_slots": INITIAL_SLOT,
        "write_slots": SCRATCH_SLOT,
        "source_rows": SCRATCH_ROW if kind == "encode" else ZERO_ROW,
        "source_lengths": positions,
        "lengths": length,
        "word_lengths": _WORD_CHARACTERS,
    }
    pools = {state.pool_input for state in manifest.states} | {memory.pool_input for memory in manifest.memories}
    inputs: dict[str, npt.NDArray[Any]] = {}
    for tensor in spec.inputs:
        if tensor.name in pools or tensor.dtype != "int64":  # initial states are zeros where none are given
            continue
        shape = [sizes[d] if isinstance(d, str) else d for d in tensor.shape]
        if tensor.name in fixed:
            inputs[tensor.name] = np.full(shape, fixed[tensor.name], dtype=np.int64)
        else:
            inputs[tensor.name] = np.arange(np.prod(shape), dtype=np.int64).reshape(shape) % _NUM_IDS
    return inputs


def _imported_inputs(manifest: Manifest, rows: int, length: int) -> dict[str, npt.NDArray[Any]]:
    assert manifest.imported is not None
    time_steps = length if manifest.imported.lengths_input is not None else None
    reads, writes = [INITIAL_SLOT] * rows, [SCRATCH_SLOT] * rows
    return likely_batch(manifest, reads, writes, np.random.default_rng(0), time_steps)


def _outputs(spec: GraphSpec, manifest: Manifest) -> tuple[str, ...]:
    """What is usually asked for: neither states nor, of a step, the probabilities of the whole vocabulary."""
    left = {state.sequence_output for state in manifest.states} | {state.pool_output for state in manifest.states}
    left |= {memory.pool_output for memory in manifest.memories} | {"log_probs"}
    return tuple(tensor.name for tensor in spec.outputs if tensor.name not in left)
