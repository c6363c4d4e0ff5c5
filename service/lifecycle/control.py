"""Who decides which models of the repository are served, and when it is looked at.

fixed      at start, and again when the operator says so (SIGHUP)
poll       regularly too; what lies in the repository no more is served no more
explicit   those that are named at start; others come and go by calls, which take the admin token
"""

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from export.bundle import BundleError, BundlePath
from export.manifest import NAME_PATTERN
from service.errors import ServiceError
from service.lifecycle.errors import (
    ChangeError,
    LoadFailed,
    NoAdminToken,
    NoSuchModel,
    NotExplicit,
    NoVersion,
    TooManyChanges,
    VersionsRefused,
    WrongToken,
)
from service.lifecycle.opening import off_loop
from service.lifecycle.serving import Serving
from service.lifecycle.states import VersionState
from service.repository import list_models
from service.runtime.errors import RunnerError
from service.settings import Settings

log = logging.getLogger(__name__)

LEAST_TOKEN_CHARACTERS: Final = 16
MOST_CHANGES: Final = 64  # loads and unloads under way or waiting
EVERY_MODEL: Final = "*"  # in `load_models`
_PATH = re.compile(r"(?<![\w.])/[^\s:,'\"()]*")

Found = Mapping[str, list[BundlePath]]


class Control:
    """See the module docstring. Everything runs on the event loop.

    Args:
        settings: Of the service.
        serving: What is served.

    Raises:
        OSError: The file of the admin token cannot be read, or holds none.
    """

    def __init__(self, settings: Settings, serving: Serving) -> None:
        self._settings = settings
        self._serving = serving
        self._token = None if settings.admin_token_file is None else read_token(settings.admin_token_file)
        self._names: set[str] = set()  # of the models that are wanted, with `explicit`
        self._seen: set[str] = set()  # of all models, when the repository was last looked at
        self._looking = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._polling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open what is to be served from the start, and begin to look again where that is asked for.

        Raises:
            BundleError: The repository is no folder, or lacks a model that is to be loaded.
            ProviderUnavailable: CUDA was insisted on and does not work.
        """
        async with self._looking:
            await self._open_first()
        if self._settings.model_control == "poll":
            self._polling = asyncio.get_running_loop().create_task(self._poll())

    async def _open_first(self) -> None:
        found = await self._look()
        if self._settings.model_control == "explicit":
            named = set(self._settings.load_models)
            self._names = set(found) if EVERY_MODEL in named else named
            if missing := sorted(self._names - found.keys()):
                raise BundleError(
                    f"load_models: expected models in {self._settings.repository}, got {', '.join(missing)}"
                )
        for name in found:
            if self._is_wanted(name):
                await self._serving.update(name, found[name], keep_gone=False, retry=True)

    def close(self) -> None:
        """Look no more; what is under way is for `Serving.close`."""
        if self._polling is not None:
            self._polling.cancel()

    # ----------------------------------------------------------------------------------------------------- the operator

    async def reload(self) -> None:
        """Look at the repository again. Whatever goes wrong is logged and leaves what is served as it is."""
        num_new = await self._refresh(retry=True)
        if num_new is not None:
            log.info("reloaded: %d models are new", num_new)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_interval_s)
            if num_new := await self._refresh(retry=False):
                log.info("found %d new models", num_new)

    async def _refresh(self, retry: bool) -> int | None:
        """Bring what is served up to what lies in the repository.

        Returns:
            How many versions are new; None: something went wrong.
        """
        follows = self._settings.model_control != "fixed"
        async with self._looking:
            num_new = 0
            try:
                found = await self._look()
                for name in sorted(found.keys() | self._serving.models.by_name.keys()):
                    if not self._is_wanted(name):
                        continue
                    if name in found:
                        update = await self._serving.update(name, found[name], keep_gone=not follows, retry=retry)
                        num_new += update.num_new
                    elif follows:
                        await self._serving.withdraw(name)
            except Exception as error:
                known = isinstance(error, BundleError | RunnerError | ServiceError)
                log.error("could not reload %s: %s", self._settings.repository, error, exc_info=not known)
                return None
            return num_new

    def _is_wanted(self, name: str) -> bool:
        return self._settings.model_control != "explicit" or name in self._names

    async def _look(self) -> Found:
        found = await off_loop(lambda: list_models(self._settings.repository))
        self._seen = set(found)
        self._serving.forget_unloaded((path.name, path.version) for paths in found.values() for path in paths)
        return found

    # ---------------------------------------------------------------------------------------------------- over the wire

    def index(self, ready_only: bool = False) -> list[VersionState]:
        """How every version stands that something is known of, by name and version; reasons name no paths."""
        states = self._serving.states()
        known = {state.name for state in states}
        states += [VersionState(name, 0, "UNAVAILABLE", "not loaded") for name in self._seen - known]
        return [
            state._replace(reason=self._without_paths(state.reason))
            for state in sorted(states)
            if state.state == "READY" or not ready_only
        ]

    def authorise(self, token: str | None) -> None:
        """Check that models may be loaded and unloaded by calls, and by this caller.

        Args:
            token: What follows `Bearer` in the `authorization` of the call; None where there is none.

        Raises:
            NotExplicit: What is served is not for calls to decide.
            NoAdminToken: The service has no token.
            WrongToken: The caller has another one, or none.
        """
        if self._settings.model_control != "explicit":
            raise NotExplicit(self._settings.model_control)
        if self._token is None:
            raise NoAdminToken
        if token is None:
            raise WrongToken("none")
        if not hmac.compare_digest(_digest(token), self._token):
            raise WrongToken("another one")

    async def load(self, name: str, token: str | None) -> None:
        """Load a model, or what is new of it. Goes on though the caller leaves.

        Raises:
            ChangeError: It is not allowed, there is no such model, or its newest version cannot be served: what was
                served of it still is.
        """
        self.authorise(token)
        await self._change(self._load(name))

    async def unload(self, name: str, token: str | None) -> None:
        """Serve a model no more; returns once nothing new is sent to it. Goes on though the caller leaves.

        Raises:
            ChangeError: It is not allowed.
        """
        self.authorise(token)
        await self._change(self._unload(name))

    async def _change(self, change: Coroutine[Any, Any, None]) -> None:
        if len(self._changes) >= MOST_CHANGES:
            change.close()
            raise TooManyChanges(MOST_CHANGES)
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changed)
        await asyncio.shield(task)

    def _changed(self, task: asyncio.Task[None]) -> None:
        self._changes.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # also where the caller has gone
            log.warning("%s", error)

    async def _load(self, name: str) -> None:
        if not re.fullmatch(NAME_PATTERN, name):
            raise NoSuchModel(name)
        try:
            found = await self._look()
            if name not in found:
                raise NoSuchModel(name)
            self._names.add(name)
            update = await self._serving.update(name, found[name], keep_gone=False, retry=True)
        except ChangeError:
            raise
        except Exception as error:
            if not isinstance(error, BundleError | RunnerError | ServiceError):
                log.error("model %s could not be loaded", name, exc_info=error)
            raise LoadFailed(name, self._without_paths(str(error))) from error
        served = self._serving.models.versions(name)
        if not served and not update.refused:
            raise NoVersion(name)
        newest = max(served, default=0)
        worse = {one.version: self._without_paths(one.reason) for one in update.refused if one.version >= newest}
        if worse:
            raise VersionsRefused(name, worse)

    async def _unload(self, name: str) -> None:
        self._names.discard(name)
        if name in self._seen or name in self._serving.models.by_name:
            await self._serving.withdraw(name)

    def _without_paths(self, reason: str) -> str:
        """Say what is wrong without saying where it lies on this machine: paths in the repository begin with it."""
        root = str(self._settings.repository.absolute())
        return _PATH.sub(
            lambda match: match[0].removeprefix(root).lstrip("/") if match[0].startswith(root + "/") else "(a path)",
            reason.replace(str(self._settings.repository) + "/", root + "/"),
        )


def read_token(file: Path) -> bytes:
    """Read the admin token.

    Returns:
        Its digest.

    Raises:
        OSError: The file cannot be read, or holds less than a token of LEAST_TOKEN_CHARACTERS.
    """
    expected = f"one token of at least {LEAST_TOKEN_CHARACTERS} printable ASCII characters"
    try:
        token = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise OSError(f"admin_token_file {file}: expected {expected}, got: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if len(token) < LEAST_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable() or " " in token:
        raise OSError(f"admin_token_file {file}: expected {expected}, got {len(token)} characters of any kind")
    return _digest(token)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
