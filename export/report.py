"""What the checks of an export found: a table for people, JSON for the bundle."""

import math
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

from export.manifest import Precision

PARITY_FILE: Final = "parity.json"
# Two right float32 programs are each one rounding from the true value, and the worst cases of both need not meet in a
# probe: so many roundings apart is still right.
ROUNDINGS: Final = 4
# The check of one graph against another, where all others have a reference.
CHUNK_CHECK: Final = "chunk = steps"


class ParityError(Exception):
    """The exported graphs do not do what the model does; nothing was published.

    Args:
        report: Everything that was measured; the message names its worst row.
    """

    def __init__(self, report: "ParityReport") -> None:
        super().__init__(report.verdict())
        self.report = report


class Check(BaseModel):
    """How one tensor came through one check, at the length at which it is worst relative to its limit.

    Args:
        check: Which check.
        graph: Which graph of the bundle; of a variant `<graph>.<variant>`.
        tensor: Output, state or memory.
        longest: The length: steps or source positions of the batches; None where batches of all lengths are judged
            together.
        difference: Largest absolute difference; for tokens, how many differ. Infinite where a value is not a number.
        rounding: Largest absolute difference between PyTorch in float32 and in float64 on the feeds of that length and
            of shorter ones; None where nothing is compared with PyTorch.
        limit: The most that passes: the check's own limit, or `ROUNDINGS` times the rounding where that is more. None
            where the difference is only reported.
        count: Values compared, at all lengths.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    check: str
    graph: str
    tensor: str
    longest: int | None = None
    difference: float
    rounding: float | None = None
    limit: float | None
    count: int = Field(ge=0)

    @property
    def passed(self) -> bool:
        """Whether the difference is within the limit; a check of nothing does not pass."""
        return self.count > 0 and (self.limit is None or self.difference <= self.limit)


class Quality(BaseModel):
    """What fewer bits cost, by one measure on real inputs.

    Args:
        measure: What was measured, with its unit.
        fp32: Of the fp32 graphs; None where the measure is a comparison with them.
        quantized: Of the graphs of fewer bits.
        loss: How much worse these are, in the measure's unit (at most 0 where they are as good).
        limit: The most that passes.
        count: What the measure was taken over: tokens or inputs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    measure: str
    fp32: float | None
    quantized: float
    loss: float
    limit: float
    count: int = Field(ge=0)

    @property
    def passed(self) -> bool:
        """Whether the loss is within the limit; a measure of nothing does not pass."""
        return self.count > 0 and self.loss <= self.limit


class ParityReport(BaseModel):
    """All rows of one export."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Precision
    seed: int
    checks: tuple[Check, ...]
    quality: tuple[Quality, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every row passed, and there is one."""
        return bool(self.checks) and all(row.passed for row in self.checks) and all(row.passed for row in self.quality)

    def verdict(self) -> str:
        """Say in one line how it went; on failure name the worst tensor, expected and got."""
        total = len(self.checks) + len(self.quality)
        failed = [row for row in self.checks if not row.passed]
        lost = [row for row in self.quality if not row.passed]
        if failed:
            worst = max(failed, key=_telling)
            expected = "any difference" if worst.limit is None else f"a difference of at most {worst.limit:g}"
            got = "nothing compared" if worst.count == 0 else f"{worst.difference:.3g}"
            return (
                f"parity: worst tensor {worst.graph}.{worst.tensor} in check {worst.check!r}: expected {expected}, "
                f"got {got}; {len(failed) + len(lost)} of {total} rows failed"
            )
        if lost:
            loss = max(lost, key=lambda row: row.loss - row.limit)
            got = "nothing measured" if loss.count == 0 else f"{loss.loss:.4f}"
            what = "quantisation" if self.precision == "int8" else self.precision
            return f"{what}: {loss.measure}: expected a loss of at most {loss.limit:g}, got {got}"
        return f"parity: all of {total} rows passed" if total else "parity: nothing was compared"

    def write(self, folder: Path) -> None:
        """Write `parity.json` into a bundle."""
        (folder / PARITY_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def tables(self) -> list[Table]:
        """Lay the rows out for a terminal."""
        # Without lines between the columns the longest names fit 100 columns.
        title = f"Parity with PyTorch, {self.precision} (rounding: PyTorch's own, float32 against float64)"
        checks = Table("check", "graph", "tensor", title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
        for heading in ("difference", "rounding", "limit", "compared"):
            checks.add_column(heading, justify="right")
        checks.add_column("")
        for row in self.checks:
            rounding, limit = ("-" if value is None else f"{value:.2g}" for value in (row.rounding, row.limit))
            cells = (row.check, row.graph, row.tensor, f"{row.difference:.2g}", rounding, limit, f"{row.count:,}")
            checks.add_row(*cells, _mark(row.passed))
        if not self.quality:
            return [checks]
        quality = Table("measure", title=f"Cost of {self.precision}, on real inputs", title_justify="left")
        for heading in ("fp32", self.precision, "loss", "limit", "over"):
            quality.add_column(heading, justify="right")
        quality.add_column("")
        for measured in self.quality:
            fp32 = "-" if measured.fp32 is None else f"{measured.fp32:.4f}"
            numbers = (
                f"{measured.quantized:.4f}",
                f"{measured.loss:.4f}",
                f"{measured.limit:g}",
                f"{measured.count:,}",
            )
            quality.add_row(measured.measure, fp32, *numbers, _mark(measured.passed))
        return [checks, quality]


class Worst:
    """Collects comparisons; of each (check, graph, tensor), the batches of that length that are worst for their limit.

    Batches of one length are judged together, with the rounding of theirs and of shorter ones: a batch alone is too few
    numbers to say what PyTorch rounds, and a long sequence excuses no short one.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], dict[int | None, Check]] = {}

    def add(
        self,
        check: str,
        graph: str,
        tensor: str,
        difference: float,
        limit: float | None,
        count: int,
        rounding: float | None = None,
        longest: int | None = None,
    ) -> None:
        """Count in one comparison; not-a-number becomes infinite, so that it can never pass.

        Args:
            check: Which check.
            graph: Which graph.
            tensor: Output, state or memory.
            difference: The largest absolute one.
            limit: The check's own; None reports only.
            count: Values compared.
            rounding: Of the reference on the same feeds; None where nothing is compared with it.
            longest: Steps or source positions of the batch.
        """
        if math.isnan(difference):
            difference = math.inf
        lengths = self._rows.setdefault((check, graph, tensor), {})
        if longest in lengths:
            row = lengths[longest]
            difference, count = max(difference, row.difference), count + row.count
            rounding = None if rounding is None else max(rounding, row.rounding or 0.0)
        lengths[longest] = Check(
            check=check,
            graph=graph,
            tensor=tensor,
            longest=longest,
            difference=difference,
            rounding=rounding,
            limit=limit,
            count=count,
        )

    def rows(self) -> tuple[Check, ...]:
        """The worst of everything collected, graph by graph and check by check."""
        graphs, checks = (list(dict.fromkeys(key[part] for key in self._rows)) for part in (1, 0))
        worst = []
        for key, lengths in self._rows.items():
            total = sum(row.count for row in lengths.values())
            worst.append(max(self._limited(key), key=_severity).model_copy(update={"count": total}))
        return tuple(sorted(worst, key=lambda row: (graphs.index(row.graph), checks.index(row.check))))

    def widest_limit(self, tensor: str) -> float:
        """The widest limit that a tensor has against the reference at any length; 0 where it was not compared."""
        rows = [row for key in self._rows if key[2] == tensor for row in self._limited(key) if row.rounding is not None]
        return max((row.limit for row in rows if row.limit is not None), default=0.0)

    def _limited(self, key: tuple[str, str, str]) -> list[Check]:
        """The rows of a tensor by length, shortest first, each with its rounding and the limit that follows."""
        rounding, limited = 0.0, []
        for row in sorted(self._rows[key].values(), key=lambda row: row.longest or 0):
            if row.rounding is not None:
                rounding = max(rounding, row.rounding)
                limit = None if row.limit is None else max(row.limit, ROUNDINGS * rounding)
                row = row.model_copy(update={"rounding": rounding, "limit": limit})
            limited.append(row)
        return limited


def _telling(row: Check) -> tuple[bool, bool, float]:
    """What orders failed rows by how well they say where a graph is wrong.

    A count of tokens says only that one is, and a chunk that differs from its steps leaves open which of the two it is.
    """
    return row.tensor != "tokens", row.check != CHUNK_CHECK, row.difference - (row.limit or 0)


def _severity(row: Check) -> tuple[bool, float, float]:
    """What orders rows of one tensor: those that fail last, then by difference relative to the limit."""
    return not row.passed, row.difference / row.limit if row.limit else 0.0, row.difference


def _mark(passed: bool) -> str:
    return "[green]ok[/]" if passed else "[bold red]failed[/]"
