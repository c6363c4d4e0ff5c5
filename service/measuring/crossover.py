"""From how many rows on a GPU is quicker than the CPU, measured for a model on this machine.

Both do what they would do in service: with so many rows ready, the CPU's runners share them, each in a lane and a
thread of its own, and the GPU takes them in one run. See docs/adr/0010-placement-by-measurement.md.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.manifest import GraphKind, Manifest
from service.engine.slots import NUM_RESERVED
from service.measuring.host import FOLDER, HowRun, describe_host, key, write
from service.measuring.timing import TimedRunner, usual_run

ROWS: Final = (1, 4, 16, 64, 256, 1024, 4096)
REACH: Final = 16  # times as many rows as were measured, that a measurement still decides for
_KINDS: Final[tuple[GraphKind, ...]] = ("step", "sequence", "encode", "run")  # the first that a model has
_LENGTH: Final = 20  # time steps of a whole sequence: a sentence
_PATIENCE_S: Final = 300.0  # for the other lanes' first runs
_WARM: Final = 3  # runs that are not timed: the first allocate, and capture where that is done
_log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Rows = Annotated[int, Field(ge=1, le=2**20)]


class Rate(BaseModel):
    """How quick a provider is with so many rows ready.

    Args:
        runs_per_s: Runs of the graph a second, all runners together.
        rows_per_s: Rows of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    rows_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Crossover(BaseModel):
    """What was measured, by rows that are ready at a time, and what follows from it.

    Args:
        host: Where, for who reads the file.
        measured_at: UTC, ISO 8601.
        graph: Which one.
        runners: That share the rows on the CPU.
        cpu: Of the CPU.
        cuda: Of the GPU; nothing where there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    host: str
    measured_at: str
    graph: GraphKind
    runners: Annotated[int, Field(ge=1)]
    cpu: dict[Rows, Rate]
    cuda: dict[Rows, Rate] = {}

    @property
    def row(self) -> int | None:
        """The fewest rows from which on the GPU is at least as quick at all sizes measured; None: from none."""
        found = None
        for rows in sorted(self.cpu.keys() & self.cuda.keys(), reverse=True):
            if self.cuda[rows].rows_per_s < self.cpu[rows].rows_per_s:
                break
            found = rows
        return found

    def best(self, max_rows: int | None = None) -> "Best | None":
        """The most rows a second that either reaches.

        Args:
            max_rows: That can be ready at a time in service; None: as many as were measured.

        Returns:
            Nothing where nothing so small was measured of both, or nothing nearly as large (of sizes that are usually
            measured): one row says nothing of a thousand.
        """
        sizes = [rows for rows in self.cpu.keys() & self.cuda.keys() if max_rows is None or rows <= max_rows]
        if not sizes or REACH * max(sizes) < min(max_rows or 0, ROWS[-1]):
            return None
        return Best(*(max(rates[rows].rows_per_s for rows in sizes) for rates in (self.cpu, self.cuda)))

    def on_top_of(self, earlier: "Crossover | None") -> "Crossover":
        """This one, and of sizes that it does not have what was measured earlier in the same way."""
        if earlier is None or (earlier.graph, earlier.runners) != (self.graph, self.runners):
            return self
        return self.model_copy(update={"cpu": {**earlier.cpu, **self.cpu}, "cuda": {**earlier.cuda, **self.cuda}})


class Best(NamedTuple):
    """Rows a second, at whatever size is best.

    Args:
        cpu: Of the CPU.
        cuda: Of the GPU.
    """

    cpu: float
    cuda: float

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU does at least as much."""
        return self.cpu >= self.cuda


def graph_of(manifest: Manifest) -> GraphKind:
    """Which graph a model is measured by: its steps where it has them, as they are most of its work."""
    return next(kind for kind in _KINDS if kind in manifest.graphs)


def sizes_of(manifest: Manifest, sizes: Sequence[int]) -> tuple[int, ...]:
    """Those sizes that a model takes in one run, each once, the smallest first."""
    most = manifest.imported.max_rows if manifest.imported is not None else None
    return tuple(sorted({rows for rows in sizes if most is None or rows <= most}))


def slots_for(sizes: Sequence[int]) -> int:
    """Rows of the state pools that measuring takes: as many to read as to write."""
    return NUM_RESERVED + 2 * max(sizes)


def measure_rate(
    runner: TimedRunner,
    rows: int,
    seconds: float,
    runners: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Rate:
    """Measure what a runner does with so many rows ready, over and over.

    Args:
        runner: With slots as `slots_for` says; nobody else may use it meanwhile.
        rows: That are ready at a time.
        seconds: How long.
        runners: That share them, each in a lane of its own.
        clock: What time is.
    """
    manifest = runner.manifest
    kind = graph_of(manifest)
    shares = [rows // runners + (lane < rows % runners) for lane in range(min(rows, runners))]
    ready = threading.Barrier(len(shares))

    def work(lane: int) -> float:
        """Runs a second in a lane."""
        try:
            inputs, outputs = _own_rows(manifest, kind, sum(shares[:lane]), shares[lane])
            for _ in range(_WARM):
                runner.run(kind, inputs, outputs, lane)
            ready.wait(_PATIENCE_S)
        except BaseException:
            ready.abort()
            raise
        start, count = clock(), 0
        while not count or clock() < start + seconds:
            runner.run(kind, inputs, outputs, lane)
            count += 1
        return count / max(clock() - start, 1e-9)

    with ThreadPoolExecutor(len(shares)) as pool:
        futures = [pool.submit(work, lane) for lane in range(len(shares))]
    errors = [error for future in futures if (error := future.exception()) is not None]
    # One that fails breaks the others' barrier; what they say of that is of no interest.
    for error in sorted(errors, key=lambda one: isinstance(one, threading.BrokenBarrierError)):
        raise error
    rates = [future.result() for future in futures]
    return Rate(
        runs_per_s=sum(rates),
        rows_per_s=sum(rate * share for rate, share in zip(rates, shares, strict=True)),
    )


def _own_rows(manifest: Manifest, kind: GraphKind, first: int, count: int) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Inputs and outputs of a run on slots of its own, as sessions have them.

    Args:
        manifest: Of the bundle.
        kind: Which graph.
        first: Of the rows that are ready, in this lane.
        count: How many are in this lane.
    """
    inputs, outputs = usual_run(manifest, kind, count, _LENGTH if kind in ("sequence", "encode") else 1)
    # In turns one that is read and one that is written: no state is the next run's, and grows with it.
    slots = NUM_RESERVED + 2 * np.arange(first, first + count, dtype=np.int64)
    for name, beside in (("read_slots", 0), ("write_slots", 1)):
        if name in inputs:
            inputs[name] = slots + beside
    return inputs, outputs


def host_of(config: HowRun, gpu: str) -> str:
    """Say what a crossover is true of: the processor, the GPU and how they run models.

    Args:
        config: Of the runners.
        gpu: What the driver calls the GPU.
    """
    return describe_host("CPU and CUDA", config, gpu)


def measure(
    on_cpu: TimedRunner,
    on_cuda: TimedRunner | None,
    sizes: Sequence[int],
    seconds: float,
    runners: int,
    host: str,
    told: Callable[[int, Rate, Rate | None], None] = lambda rows, cpu, cuda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Crossover:
    """Measure both, size by size, so that whatever disturbs meets both.

    Args:
        on_cpu: With slots as `slots_for` says, not in use.
        on_cuda: The same on a GPU, where there is one.
        sizes: Rows that are ready at a time.
        seconds: Of each measurement.
        runners: That share the rows on the CPU.
        host: As `host_of` says.
        told: Called after each size.
        clock: What time is.
    """
    cpu: dict[int, Rate] = {}
    cuda: dict[int, Rate] = {}
    for rows in sizes_of(on_cpu.manifest, sizes):
        cpu[rows] = measure_rate(on_cpu, rows, seconds, runners, clock)
        if on_cuda is not None:
            cuda[rows] = measure_rate(on_cuda, rows, seconds, 1, clock)
        told(rows, cpu[rows], cuda.get(rows))
    return Crossover(
        host=host,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        graph=graph_of(on_cpu.manifest),
        runners=runners,
        cpu=cpu,
        cuda=cuda,
    )


def load(folder: Path, manifest: Manifest, host: str) -> Crossover | None:
    """Read what was measured of a bundle on this machine; None: nothing, or nothing that can be read.

    Args:
        folder: The bundle.
        manifest: Of it.
        host: As `host_of` says.
    """
    path = path_of(folder, manifest, host)
    try:
        return Crossover.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("%s: expected a crossover, got %s: done without", path, str(error).splitlines()[0])
        return None


def keep(folder: Path, manifest: Manifest, crossover: Crossover) -> Path:
    """Write what was measured beside the bundle, where `load` finds it.

    Returns:
        The file.

    Raises:
        OSError: It cannot be written.
    """
    path = path_of(folder, manifest, crossover.host)
    write(path, crossover)
    return path


def path_of(folder: Path, manifest: Manifest, host: str) -> Path:
    """Where it is kept."""
    return folder / FOLDER / f"{key(host, manifest)}.crossover.json"
