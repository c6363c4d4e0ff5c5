"""Which of a model's step graphs is the quickest on this host: measured when it is first opened, and kept beside it.

A bundle exported for CUDA holds its step, and the chunk that goes with it, several times over, out of different
operators (`export.manifest.Variant`). None is the quickest everywhere: that depends on the provider, the width of the
layers, and the rows of a batch.
"""

import logging
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from export.manifest import GraphKind, Manifest, Variant, variants, with_variant
from service.measuring.host import FOLDER, key, write
from service.measuring.profile import Rows, Seconds
from service.measuring.timing import CPU, TimedRunner, Timing
from service.runtime.errors import ProviderUnavailable, first_line

# "node" is the graph as it is, with the recurrent nodes of ONNX.
Candidate = Literal["node", "primitive", "folded"]
_NODE: Final[Candidate] = "node"
_VARIANTS: Final[tuple[Variant, ...]] = ("primitive", "folded")
_ROWS: Final = (1, 4, 16, 64, 256)
_GPU_ROWS: Final = (*_ROWS, 1024, 4096)
_LENGTH: Final = 20  # time steps of what is padded: a sentence
_BUDGET_S: Final = 0.5  # of each candidate
_GAIN: Final = 1.1  # that a variant must bring: less may be noise
_FEW: Final = 2  # sizes of which none can be left out
_log = logging.getLogger(__name__)


class Choice(BaseModel):
    """What was measured, and what was chosen.

    Args:
        host: Where, for who reads the file.
        measured_at: UTC, ISO 8601.
        provider: Of ONNX Runtime, on which it was measured.
        variant: The quickest; None is the graph with recurrent nodes.
        step_seconds: Of a step run, by candidate and rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    host: str
    measured_at: str
    provider: str
    variant: Variant | None
    step_seconds: dict[Candidate, dict[Rows, Seconds]] = {}


class Closable(TimedRunner, Protocol):
    """What is needed of `service.runtime.runner.Runner`."""

    def close(self) -> None:
        """Let go of graphs and pools."""


R = TypeVar("R", bound=Closable)


def quickest(step_seconds: Mapping[Candidate, Mapping[int, float]]) -> Variant | None:
    """Choose from what steps took.

    Which batches there will be is not known, so that all that were measured count alike: the geometric mean over rows
    decides, of those rows that all candidates were timed at. A variant has to gain a tenth over the graph as it is,
    where three sizes or more were timed even without the one at which it gains the most: that may be a disturbance.

    Args:
        step_seconds: By candidate and rows, at least one; without `node` that one cannot be run.

    Returns:
        The variant; None where the graph as it is does nearly as well.
    """
    rows = set.intersection(*(set(series) for series in step_seconds.values()))
    # Without the graph as it is, variants are held against each other.
    base = step_seconds[_NODE] if _NODE in step_seconds else dict.fromkeys(rows, 1.0)

    def gain(name: Candidate) -> float:
        gains = sorted(math.log(base[size] / step_seconds[name][size]) for size in rows)
        counted = gains[:-1] if len(gains) > _FEW and _NODE in step_seconds else gains
        return math.exp(sum(counted) / max(1, len(counted)))

    gains = {name: gain(name) for name in _VARIANTS if name in step_seconds}
    best = max(gains, key=lambda name: gains[name], default=None)
    return best if best is not None and (_NODE not in step_seconds or gains[best] >= _GAIN) else None


def open_quickest(
    folder: Path,
    manifest: Manifest,
    host: str,
    threads: int,
    open_runner: Callable[[Manifest], R],
    open_trial: Callable[[Manifest], R],
    clock: Callable[[], float] | None = None,
) -> R:
    """Open a model as what steps quickest on this host. One without variants is just opened.

    Args:
        folder: The bundle.
        manifest: Its own.
        host: Where and with which settings it is run, in words: what was measured otherwise is measured again.
        threads: Intra-op threads of the runners.
        open_runner: Opens a manifest for good.
        open_trial: The same with pools as small as can be, to be timed and closed.
        clock: As of `Timing`.

    Raises:
        ProviderUnavailable: CUDA was insisted on and does not work.
        Exception: What opening raises. A variant that cannot be run is left out, even if it was the quickest once, and
            so is the graph as it is where only a variant can.
    """
    if not variants(manifest):
        return open_runner(manifest)
    path = folder / FOLDER / f"{key(host, manifest)}.variant.json"
    kept = _read(path)
    if kept is not None:
        try:
            runner = open_runner(with_variant(manifest, kept.variant))
        except ProviderUnavailable:  # of the machine: nothing measured anew can help
            raise
        except Exception as error:
            _leave_out(manifest, kept.variant or _NODE, first_line(error))
        else:
            if runner.provider == kept.provider:
                _tell(manifest, kept)
                return runner
            runner.close()  # the GPU is not what it was
    choice = measure(manifest, host, threads, open_trial, clock)
    _tell(manifest, choice)
    try:
        write(path, choice)
    except OSError as error:
        _log.info("%s: the choice of a variant is not kept: %s", path, error.strerror)
    return open_runner(with_variant(manifest, choice.variant))


def measure(
    manifest: Manifest,
    host: str,
    threads: int,
    open_trial: Callable[[Manifest], R],
    clock: Callable[[], float] | None = None,
) -> Choice:
    """Time the steps of a model in each variant; see `quickest` and, for how, `service.measuring.timing.Timing`.

    Raises:
        ProviderUnavailable: CUDA was insisted on and does not work.
        Exception: What opening the graph as it is raises, where no variant can be run either.
    """
    tried: dict[str, dict[Candidate, dict[int, float]]] = {}  # by provider
    failure: Exception | None = None
    for variant in (None, *variants(manifest)):
        try:
            runner = open_trial(with_variant(manifest, variant))
            try:
                seconds = _time_steps(runner, threads, clock)
            finally:
                runner.close()
        except ProviderUnavailable:  # of the machine: no variant can help
            raise
        except Exception as error:
            failure = failure or error
            _leave_out(manifest, variant or _NODE, first_line(error))
        else:
            tried.setdefault(runner.provider, {})[variant or _NODE] = seconds
    if failure is not None and not tried:
        raise failure
    # What falls back to the CPU is not what was asked for, however quick it is there.
    provider = next((name for name in tried if name != CPU), CPU)
    for other in tried.keys() - {provider}:
        for name in tried[other]:
            _leave_out(manifest, name, f"it runs on {other}, others on {provider}")
    series = tried[provider]
    # Imports have variants for what CUDA does not run: the CPU runs all.
    as_it_is = provider == CPU and manifest.imported is not None and _NODE in series
    return Choice(
        host=host,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        provider=provider,
        variant=None if as_it_is else quickest(series),
        step_seconds=series,
    )


def _time_steps(runner: TimedRunner, threads: int, clock: Callable[[], float] | None) -> dict[int, float]:
    """Seconds of a run by rows, as far as the budget goes: of a step, or of an imported model that has none."""
    timing = Timing(runner, threads, _BUDGET_S, clock)
    imported = runner.manifest.imported
    kind: GraphKind = "step" if "step" in runner.manifest.graphs else "run"
    length = _LENGTH if imported is not None and imported.lengths_input is not None else 1
    most = imported.max_rows if imported is not None else None
    series = {}
    for rows in _ROWS if runner.provider == CPU else _GPU_ROWS:
        if most is not None and rows > most:
            break
        seconds = timing.seconds(kind, rows, length)
        if seconds is None:
            break
        series[rows] = seconds
    return series


def _tell(manifest: Manifest, choice: Choice) -> None:
    _log.info("%s: the quickest here is %s", _model(manifest), choice.variant or "the graph as it is")


def _leave_out(manifest: Manifest, name: Candidate, reason: str) -> None:
    what = "the graph as it is" if name == _NODE else f"variant {name}"
    _log.warning("%s: %s is left out: %s", _model(manifest), what, reason)


def _model(manifest: Manifest) -> str:
    return f"model {manifest.name} version {manifest.version}"


def _read(path: Path) -> Choice | None:
    try:
        return Choice.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("%s: expected a choice of a variant, got %s: measuring again", path, str(error).splitlines()[0])
        return None
