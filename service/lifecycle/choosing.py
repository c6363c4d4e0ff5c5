"""Which versions of a model are to be served: a walk from the newest one, opening what is not served yet."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from export.bundle import BundleError, BundlePath, load_manifest
from service.lifecycle.launching import Running
from service.lifecycle.opening import Opener, off_loop
from service.lifecycle.stamp import Stamp, stamp
from service.lifecycle.versions import VersionPolicy
from service.repository import RefusedBundle, ServedModel
from service.runtime.errors import first_line

log = logging.getLogger(__name__)


class Broken(NamedTuple):
    """A bundle that could not be opened, and how its files were then."""

    bundle: RefusedBundle
    stamp: Stamp


class Served(NamedTuple):
    """A version that answers, and how the files of its bundle were when it was opened."""

    running: Running
    stamp: Stamp


@dataclass
class Choice:
    """What is to be served, as far as the walk has come.

    Args:
        served: By version.
        opened: Those of them that were not served before, or another bundle under the same number.
        broken: By folder, what could not be opened.
    """

    served: dict[int, Served] = field(default_factory=dict)
    opened: list[Running] = field(default_factory=list)
    broken: dict[Path, Broken] = field(default_factory=dict)


@dataclass(frozen=True)
class Chooser:
    """Walks through the versions of a model.

    Args:
        opener: Opens bundles.
        launch: Starts the engine of one that was opened.
        loading: Held while a version is opened.
    """

    opener: Opener
    launch: Callable[[ServedModel], Running]
    loading: Callable[[BundlePath], AbstractContextManager[None]]

    async def choose(
        self,
        choice: Choice,
        candidates: Sequence[BundlePath],
        policy: VersionPolicy,
        served: Mapping[int, Served],
        known: Mapping[Path, Broken],
    ) -> None:
        """Walk until there are as many versions as the policy wants.

        Args:
            choice: Is filled in, also if this raises: whoever calls must close what was opened then.
            candidates: The newest first; a folder that lies there no more is left alone where its version is served.
            policy: What is wanted.
            served: By version, what is served so far.
            known: Bundles that need not be tried again as long as they are as they were.

        Raises:
            ProviderUnavailable, ShuttingDown: As `Opener.open`.
        """
        for path in candidates:
            if len(choice.served) >= policy.most:
                break
            if path.version and not policy.wants(path.version):
                continue
            mark = await off_loop(lambda path=path: stamp(path.folder))  # type: ignore[misc]
            before = served.get(path.version)
            if before is not None:
                choice.served[path.version] = before  # whatever becomes of what would replace it
                if not mark or before.stamp == mark:
                    continue
                if await _is_same(path, before.running):
                    choice.served[path.version] = before._replace(stamp=mark)
                    continue
            broken = known.get(path.folder)
            if broken is None or broken.stamp != mark:
                opened = await self._open(path)
                if isinstance(opened, Running):
                    choice.served[path.version] = Served(opened, mark)
                    choice.opened.append(opened)
                    with self.loading(path):  # what is served so far answers meanwhile
                        await opened.warm()
                    continue
                broken = Broken(opened, mark)
            choice.broken[path.folder] = broken

    async def _open(self, path: BundlePath) -> Running | RefusedBundle:
        with self.loading(path):
            opened = await self.opener.open(path)
            if isinstance(opened, ServedModel):
                try:
                    return self.launch(opened)
                except Exception as error:
                    await off_loop(opened.close)
                    log.exception("model %s version %d could not be started", path.name, path.version)
                    opened = RefusedBundle(path.name, path.version, "graphs", first_line(error))
        log.warning("refused %s version %d: %s", opened.name, opened.version, opened.reason)
        return opened


async def _is_same(path: BundlePath, running: Running) -> bool:
    """Whether files that look different are the bundle that is served all the same."""
    try:
        return await off_loop(lambda: load_manifest(path.folder)) == running.bundle
    except BundleError:
        return False
