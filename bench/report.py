"""What a benchmark gives: a table on the terminal, and with --out a JSON file and plots beside it."""

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

Cell = float | int | str | None
Row = Mapping[str, Cell]


@dataclass(frozen=True)
class Plot:
    """Lines to draw.

    Args:
        name: Of the file, without its ending.
        title: Above it.
        x: What the horizontal axis is, with its unit.
        y: What the vertical axis is, with its unit.
        lines: Points (x, y) by label.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
    """

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Report:
    """One benchmark's result.

    Args:
        name: The subcommand.
        title: One line.
        rows: The table; all rows have the same keys, which are the columns.
        notes: Lines below the table.
        details: What else the JSON file holds.
        plots: To draw where matplotlib is installed.
    """

    name: str
    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    details: Mapping[str, object] = field(default_factory=dict)
    plots: Sequence[Plot] = ()


def plain(options: argparse.Namespace) -> dict[str, object]:
    """The options of a run as JSON has them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def machine() -> dict[str, Cell]:
    """What the figures were measured on."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")), None
    )
    packages = {name: _version(name) for name in ("onnxruntime", "grpcio", "numpy")}
    return {
        "cpu": model or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **packages,
    }


def show(report: Report, console: Console) -> None:
    """Print the table and the notes."""
    table = Table(title=report.title)
    for column in report.rows[0]:
        table.add_column(column, justify="right")
    for row in report.rows:
        table.add_row(*(_text(cell) for cell in row.values()))
    console.print(table)
    for note in report.notes:
        console.print(note, highlight=False)


def save(report: Report, folder: Path, console: Console) -> None:
    """Write `<name>.json` and the plots into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"title": report.title, "machine": machine(), "rows": [dict(row) for row in report.rows]}
    content |= {"notes": list(report.notes), "details": dict(report.details)}
    (folder / f"{report.name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for plot in report.plots:
        if not _draw(plot, folder):
            console.print("no plots: matplotlib is not installed (the extra `bench` has it)", style="dim")
            return


def _draw(plot: Plot, folder: Path) -> bool:
    """Draw into `<name>.svg`; False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for label, points in plot.lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="." if len(points) < 60 else None, label=label)
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
    axes.set_xscale("log" if plot.log_x else "linear")
    axes.set_yscale("log" if plot.log_y else "linear")
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.savefig(folder / f"{plot.name}.svg")
    return True


def _text(cell: Cell) -> str:
    match cell:
        case None:
            return "-"
        case float() if abs(cell) >= 100:
            return f"{cell:,.0f}"
        case float() if 0 < abs(cell) < 0.005:
            return f"{cell:.1e}"
        case float():
            return f"{cell:.2f}"
        case int():
            return f"{cell:,}"
    return str(cell)


def _version(name: str) -> str:
    """Of a package, or of the one that takes its place on a GPU."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return metadata.version(f"{name}-gpu")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
