"""Medians over the rounds, as a table."""

import statistics
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.peers.measure import Result

Turn = tuple[dict[int, Result], dict[int, Result]]  # ours, then theirs, by number of sessions


@dataclass(frozen=True)
class Row:
    """Medians for one peer and number of sessions; rates in steps/s, latencies in ms, `ratio` ours over theirs.

    The service's columns and the ratio are None where it was left out.
    """

    name: str
    title: str
    sessions: int
    steps_per_s: float
    p50_ms: float
    p99_ms: float
    generator_cpu: float
    judged: int
    service_steps_per_s: float | None
    service_p50_ms: float | None
    service_p99_ms: float | None
    ratio: float | None


@dataclass
class Report:
    """What a peer did in all rounds; with a fault it is not timed."""

    name: str
    title: str
    turns: list[Turn] = field(default_factory=list)
    fault: str = ""

    def rows(self) -> list[Row]:
        """One for each number of sessions; none with a fault."""
        if self.fault or not self.turns:
            return []
        return [self._row(sessions) for sessions in self.turns[0][1]]

    def _row(self, sessions: int) -> Row:
        theirs = [peer[sessions] for _, peer in self.turns]
        pairs = [(ours[sessions], peer[sessions]) for ours, peer in self.turns if ours]
        return Row(
            self.name,
            self.title,
            sessions,
            statistics.median(result.steps_per_s for result in theirs),
            statistics.median(result.p50_ms for result in theirs),
            statistics.median(result.p99_ms for result in theirs),
            statistics.median(result.generator_cpu for result in theirs),
            sum(result.judged for result in theirs),
            statistics.median(ours.steps_per_s for ours, _ in pairs) if pairs else None,
            statistics.median(ours.p50_ms for ours, _ in pairs) if pairs else None,
            statistics.median(ours.p99_ms for ours, _ in pairs) if pairs else None,
            statistics.median(ours.steps_per_s / peer.steps_per_s for ours, peer in pairs) if pairs else None,
        )


def show(reports: list[Report], console: Console) -> None:
    """Print the table, and below it what is wrong with whom."""
    table = Table(title="One step a message, closed loop, every answer right")
    table.add_column("server")
    columns = ("sessions", "steps/s", "p50 ms", "p99 ms", "generator CPU", "answers", "service steps/s", "p50", "p99")
    for column in (*columns, "service / peer"):
        table.add_column(column, justify="right")
    for row in (row for report in reports for row in report.rows()):
        figures = (f"{row.steps_per_s:,.0f}", f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}", f"{row.generator_cpu:.2f}")
        ours = (
            _figure(row.service_steps_per_s, ",.0f"),
            _figure(row.service_p50_ms, ".1f"),
            _figure(row.service_p99_ms, ".1f"),
            _figure(row.ratio, ".2f"),
        )
        table.add_row(row.title, str(row.sessions), *figures, f"{row.judged:,}", *ours)
    console.print(table)
    for report in reports:
        if report.fault:
            console.print(escape(f"{report.title} is not timed: {report.fault}"), style="red")


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
