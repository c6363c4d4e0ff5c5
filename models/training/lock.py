"""One training a run folder at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.training.errors import RunError

FILE = ".lock"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder, making it where there is none; the lock ends with the process, however that ends.

    Raises:
        RunError: Another process holds it, or it cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = (run / FILE).open("a")
    except OSError as error:
        raise RunError(f"{run}: cannot be used as a run folder: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{run}: expected a folder that nobody uses, got one in training") from None
        yield
