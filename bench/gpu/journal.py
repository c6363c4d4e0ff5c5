"""What a part has found, written line by line as it finds it: a part that is ended early keeps what it has.

One JSON object a line: {"table", "row"}, {"note"} or {"broken"}, a promise that was seen not to hold.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.report import Cell, Row

NOTE: Final = "note"  # the column in which a row says what went wrong
_LONGEST: Final = 160  # characters of a reason


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line that has something in it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ... ".join(dict.fromkeys((lines[0], lines[-1]))) if lines else ""  # a log's last line says most
    name = type(error).__name__
    text = text if isinstance(error, SystemExit) and text else f"{name}: {text}" if text else name
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


class Journal:
    """Writes the file; see the module docstring."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def row(self, table: str, row: Row) -> None:
        """Add a row to the table of this title."""
        self._write({"table": table, "row": dict(row)})

    def attempt(self, table: str, head: Row, measure: Callable[[], Row]) -> Row | None:
        """Add a row that begins with `head` and goes on with what is measured, or with why nothing was.

        Returns:
            What was measured; None where it failed.
        """
        try:
            found = measure()
        except Exception as error:  # whatever a provider, a driver or a card comes up with is a line of the table
            self.row(table, {**head, NOTE: reason_of(error)})
            return None
        self.row(table, {**head, **found})
        return found

    def note(self, text: str) -> None:
        """Add a line below the tables."""
        self._write({"note": text})

    def broken(self, text: str) -> None:
        """Say that something which the project promises does not hold here."""
        self._write({"broken": text})

    def _write(self, entry: dict[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


@dataclass
class Found:
    """A journal as it is read.

    Args:
        tables: Rows by title, in order.
        notes: Lines.
        broken: Promises that do not hold.
    """

    tables: dict[str, list[dict[str, Cell]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def empty_rows(self) -> list[dict[str, Cell]]:
        """Those that say why they have no figures."""
        return [row for rows in self.tables.values() for row in rows if NOTE in row]


def read(path: Path) -> Found:
    """Read what a part has found so far; nothing where there is no file. A last line that is cut off is left out."""
    found = Found()
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        entry = json.loads(line)
        if "table" in entry:
            found.tables.setdefault(entry["table"], []).append(entry["row"])
        elif "note" in entry:
            found.notes.append(entry["note"])
        else:
            found.broken.append(entry["broken"])
    return found


def aligned(rows: list[dict[str, Cell]]) -> list[dict[str, Cell]]:
    """Give all rows the columns of all, in the order in which they were first seen, the note last."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name != NOTE))
    columns += [NOTE] * any(NOTE in row for row in rows)
    return [{name: row.get(name) for name in columns} for row in rows]
