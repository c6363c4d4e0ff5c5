"""What the protocol needs to know of, and may do to, the repository of models."""

from collections.abc import Sequence
from typing import Protocol


class IndexEntry(Protocol):
    """One version of a model, served or not."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def version(self) -> int:
        """Which one; 0: none is known."""

    @property
    def state(self) -> str:
        """READY, LOADING, UNLOADING or UNAVAILABLE."""

    @property
    def reason(self) -> str:
        """Why it is not ready, if it is not."""


class ModelControl(Protocol):
    """The repository; the service's `Control` is one."""

    def index(self, ready_only: bool = False) -> Sequence[IndexEntry]:
        """All versions that are known, by name and then version."""

    def authorise(self, token: str | None) -> None:
        """Check that who has this token may load and unload models.

        Raises:
            ChangeError: It is not allowed.
        """

    async def load(self, name: str, token: str | None) -> None:
        """Load a model.

        Raises:
            ChangeError: It is not allowed, or it failed.
        """

    async def unload(self, name: str, token: str | None) -> None:
        """Unload a model.

        Raises:
            ChangeError: It is not allowed.
        """
