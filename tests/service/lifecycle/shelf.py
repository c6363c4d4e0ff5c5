"""A repository of accumulators for tests of what is served: versions come, go, break, and take as long as is wanted."""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from export.bundle import BundlePath, hash_files, write_manifest
from service.measuring.profile import HostProfile
from service.repository import RefusedBundle, ServedModel, open_bundle
from service.runtime.runner import Runner, RunnerConfig
from tests.service.tensor_models import write_accumulator

PATIENCE_S = 30.0
FIRST_TOTAL = 1000  # times the version is what an accumulator begins with


class Shelf:
    """A repository folder, and what is opened of it.

    Attributes:
        folder: The repository.
        opened: Name and version of every attempt to open one, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: list[tuple[str, int]] = []
        self._spare = folder / ".spare"
        self._held: dict[tuple[str, int], threading.Event] = {}
        self._inside = threading.Semaphore(0)

    def put(self, name: str, version: int, first_total: int | None = None, **changes: object) -> Path:
        """Publish an accumulator, in place of what is there, as an import does: all at once."""
        shutil.rmtree(self._spare, ignore_errors=True)
        self._spare.mkdir(parents=True)
        manifest = write_accumulator(self._spare)
        total = FIRST_TOTAL * version if first_total is None else first_total
        np.savez(self._spare / "initial.npz", total=np.array([total], np.float32))
        (self._spare / "original.onnx").write_bytes(b"as it came")
        fields = {"name": name, "version": version, "files": hash_files(self._spare), **changes}
        write_manifest(self._spare, manifest.model_copy(update=fields))
        self.remove(name, version)
        folder = self.folder / name / str(version)
        folder.parent.mkdir(exist_ok=True)
        return self._spare.rename(folder)

    def put_broken(self, name: str, version: int) -> Path:
        """Publish a version whose graph is cut short."""
        folder = self.put(name, version)
        (folder / "step.onnx").write_bytes(b"cut short")
        return folder

    def remove(self, name: str, version: int | None = None) -> None:
        """Take a version away, or all of a model."""
        shutil.rmtree(self.folder / name if version is None else self.folder / name / str(version), ignore_errors=True)

    def hold(self, name: str, version: int) -> Callable[[], None]:
        """Have the next opening of a version wait until what is returned is called."""
        go_on = self._held[name, version] = threading.Event()
        return go_on.set

    def is_held(self) -> bool:
        """Whether an opening has come to where it waits; tells of each once."""
        return self._inside.acquire(blocking=False)

    def open(
        self,
        path: BundlePath,
        config: RunnerConfig,
        opened: Callable[[Runner], None] | None = None,
        others: Sequence[RunnerConfig] = (),
        max_batch_rows: int = 0,
    ) -> ServedModel | RefusedBundle:
        """As `open_bundle`."""
        self.opened.append((path.name, path.version))
        if go_on := self._held.pop((path.name, path.version), None):
            self._inside.release()
            assert go_on.wait(PATIENCE_S)
        return open_bundle(path, config, opened, others, max_batch_rows)


@contextmanager
def shelf_in(folder: Path) -> Iterator[Shelf]:
    """A shelf that is what the service opens bundles of, without measuring them: that takes most of the time."""
    folder.mkdir(exist_ok=True)
    shelf = Shelf(folder)
    profile = HostProfile(host="any", measured_at="2026-01-01T00:00:00+00:00")
    with (
        mock.patch("service.lifecycle.opening.open_bundle", shelf.open),
        mock.patch("service.repository.load_or_measure", lambda *_: profile),
        mock.patch("service.repository.probe_company", lambda *_: ()),
    ):
        yield shelf
