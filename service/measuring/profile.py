"""What a model costs on this host, measured when it is loaded and kept beside it.

Batches grow until rows a second hardly rise any more (the knee): beyond it a larger batch only makes everybody in it
wait. Where that is, and whether several steps of a session in one run pay, depends on the model and on the processor,
so a short measurement tells, about a second a model. It is kept in the bundle's folder, one file for each kind of host;
a folder that cannot be written to just means that the next start measures again.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from export.manifest import GraphKind
from service.engine.cost import Costs, RowCost
from service.engine.schedule import ScheduleLimits
from service.measuring.company import bounded, most_rows
from service.measuring.host import FOLDER, HowRun, describe_host, key, write
from service.measuring.timing import CPU, TimedRunner, Timing

_BUDGET_S: Final = 0.5  # of each of at most three series
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_DEVICE_ROWS: Final = (*_ROWS, 512, 1024, 2048, 4096)  # a GPU is hardly busy with as many as a core can take
_CHUNKS: Final = (8, 2, 4, 16)  # in order of interest, as the budget may not do for all
_CHUNK_ROWS: Final = (1, 4, 16, 64)
_MOST_CHUNK_TOKENS: Final = 256  # rows times steps beyond which no chunk is timed
_LENGTH: Final = 20  # time steps of a whole sequence: a sentence
_KNEE: Final = 0.93  # of the best rows a second; at 0.95 the same model fell on either side of it from run to run
_CHUNK_GAIN: Final = 1.03  # over as many steps, below which a chunk is not worth its wait
_MOST_RUN_S: Final = 0.04  # of a run of whole sequences, for which steps must wait
_log = logging.getLogger(__name__)

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rows = Annotated[int, Field(ge=1, le=65536)]


class HostProfile(BaseModel):
    """What was measured, and what follows from it. Graphs that the model does not have have no figures.

    Args:
        host: Where, for who reads the file.
        measured_at: UTC, ISO 8601.
        max_rows: Rows of a step run: the knee.
        max_chunk: Most steps of a chunk run that pays; 1 is none.
        max_sequences: Rows of a sequence or encode run: the knee.
        max_padded_tokens: Rows times steps of a sequence or encode run.
        step_seconds: Of a step run, by rows.
        chunk_seconds: Of a chunk run, by steps and rows, as far as it pays.
        time_step_seconds: Of a time step of a sequence or encode run, by rows.
        most_rows: Of an imported model, beyond which runs fail; None: none of those that were timed did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    host: str
    measured_at: str
    max_rows: Rows = 64
    max_chunk: Rows = 1
    max_sequences: Rows = 64
    max_padded_tokens: Annotated[int, Field(ge=1)] = 1024
    step_seconds: dict[Rows, Seconds] = {}
    chunk_seconds: dict[Rows, dict[Rows, Seconds]] = {}
    time_step_seconds: dict[Rows, Seconds] = {}
    most_rows: Rows | None = None

    @model_validator(mode="after")
    def _usable(self) -> "HostProfile":
        self.limits(ScheduleLimits())
        return self

    def limits(self, base: ScheduleLimits) -> ScheduleLimits:
        """Set what was measured into limits; a `max_chunk` of 1 there stays."""
        costs = base.costs
        if self.step_seconds:
            steps = {1: RowCost(self.step_seconds)}
            steps |= {length: RowCost(seconds) for length, seconds in self.chunk_seconds.items()}
            costs = replace(costs, steps=steps)
        if self.time_step_seconds:
            costs = replace(costs, time_step=RowCost(self.time_step_seconds))
        return replace(
            base,
            max_rows=self.max_rows,
            max_sequences=self.max_sequences,
            max_padded_tokens=self.max_padded_tokens,
            max_chunk=self.max_chunk,
            max_chunk_tokens=max(self.max_chunk, 2 * self.max_rows),
            costs=costs,
        )


def load_or_measure(folder: Path, runner: TimedRunner, config: HowRun) -> HostProfile:
    """Read the profile of this host, or measure and keep it.

    Args:
        folder: The bundle.
        runner: Opened on it, and not in use yet.
        config: Of the runner.
    """
    host = describe_host(runner.provider, config)
    path = folder / FOLDER / f"{key(host, runner.manifest)}.json"
    try:
        return HostProfile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        pass
    except (OSError, ValidationError) as error:
        _log.warning("%s: expected a host profile, got %s: measuring again", path, str(error).splitlines()[0])
    profile = _measure_what_runs(runner, host, config.threads)
    try:
        write(path, profile)
    except OSError as error:
        _log.info("%s: the host profile is not kept: %s", path, error.strerror)
    return profile


def _measure_what_runs(runner: TimedRunner, host: str, threads: int) -> HostProfile:
    """Measure batches of an imported model of up to as many rows as it can be run on."""
    try:
        return measure(runner, host, threads)
    except Exception:
        imported = runner.manifest.imported
        if imported is None or imported.max_rows == 1:
            raise
    most = most_rows(runner)
    runner.manifest = bounded(runner.manifest, most)
    return measure(runner, host, threads).model_copy(update={"most_rows": most})


def measure(
    runner: TimedRunner, host: str = "", threads: int = 1, clock: Callable[[], float] | None = None
) -> HostProfile:
    """Time the graphs of a model; see `HostProfile` for what is found and `Timing` for how."""
    graphs, imported = runner.manifest.graphs, runner.manifest.imported
    most = imported.max_rows if imported is not None else None
    tried = _ROWS if runner.provider == CPU else _DEVICE_ROWS
    sizes = tuple(rows for rows in tried if most is None or rows <= most)
    timing = Timing(runner, threads, _BUDGET_S, clock)
    profile = HostProfile(host=host, measured_at=datetime.now(UTC).isoformat(timespec="seconds"))
    if "step" in graphs:
        steps = _series(timing, "step", 1, sizes)
        profile = profile.model_copy(update={"step_seconds": steps, "max_rows": _knee(steps)})
        if "chunk" in graphs:
            timing.renew(_BUDGET_S)
            chunks = _paying_chunks(timing, steps)
            profile = profile.model_copy(update={"chunk_seconds": chunks, "max_chunk": max(chunks, default=1)})
    for kind in ("sequence", "encode", "run"):
        if kind in graphs:
            timing.renew(_BUDGET_S)
            # Rows of a run that does not pad have one size, which counts as one time step.
            length = _LENGTH if imported is None or imported.lengths_input is not None else 1
            series = _series(timing, kind, length, sizes)
            knee = _knee(series)
            tokens = int(_MOST_RUN_S * knee * length / series[knee])
            profile = profile.model_copy(
                update={
                    "time_step_seconds": {rows: seconds / length for rows, seconds in series.items()},
                    "max_sequences": knee,
                    "max_padded_tokens": max(tokens, knee),
                }
            )
    return profile


def _series(timing: Timing, kind: GraphKind, length: int, sizes: tuple[int, ...]) -> dict[int, float]:
    """Time batches of growing size, until the budget is spent or a larger one is clearly no quicker."""
    series: dict[int, float] = {}
    best = 0.0
    for rows in sizes:
        seconds = timing.seconds(kind, rows, length)
        if seconds is None and series:
            break
        # The budget lets one be timed at least: it was given just now.
        assert seconds is not None
        series[rows] = seconds
        rate = _rate(rows, seconds)
        if rate < _KNEE * best:
            break
        best = max(best, rate)
    return series


def _rate(rows: int, seconds: float) -> float:
    """Rows a second, with what any run costs the engine counted in."""
    return rows / (seconds + Costs().run_s)


def _knee(series: Mapping[int, float]) -> int:
    """The smallest batch that is nearly as quick a row as the best."""
    rates = {rows: _rate(rows, seconds) for rows, seconds in series.items()}
    return min(rows for rows, rate in rates.items() if rate >= _KNEE * max(rates.values()))


def _paying_chunks(timing: Timing, steps: Mapping[int, float]) -> dict[int, dict[int, float]]:
    """Time chunks; those of so many steps are kept if at some number of rows they beat as many steps."""
    step = RowCost(steps)
    chunks: dict[int, dict[int, float]] = {}
    for length in _CHUNKS:
        series: dict[int, float] = {}
        for rows in _CHUNK_ROWS:
            if rows * length <= _MOST_CHUNK_TOKENS and (seconds := timing.seconds("chunk", rows, length)) is not None:
                series[rows] = seconds
        if any(length * step(rows) >= _CHUNK_GAIN * seconds for rows, seconds in series.items()):
            chunks[length] = series
    return dict(sorted(chunks.items()))
