"""What can be wrong with data."""

from pathlib import Path


class DataError(ValueError):
    """A data file, or what was asked of it, is not as expected.

    Args:
        message: What is wrong, in one line.
        path: The file, where there is one.
        line: Line number, from 1.
        expected: What would have been right.
        got: What was found; long text is shown in part.
    """

    def __init__(
        self,
        message: str,
        *,
        path: Path | None = None,
        line: int | None = None,
        expected: str | None = None,
        got: str | None = None,
    ) -> None:
        self.path, self.line = path, line
        where = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        parts = [message]
        if expected is not None:
            parts.append(f"expected {expected}")
        if got is not None:
            parts.append(f"got {got if len(got) <= 120 else got[:117] + '...'}")
        super().__init__(where + ", ".join(parts))
