"""How the versions of the models stand, as whoever looks after the repository is told."""

from typing import Literal, NamedTuple

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
Key = tuple[str, int]  # name and version of a model


class VersionState(NamedTuple):
    """One version of a model.

    Args:
        name: Of the model.
        version: 0 where none is known, or where a folder in its place is no version.
        state: In the words of the Open Inference Protocol.
        reason: Why it is not ready; of one that is ready, why another bundle could not take its place.
    """

    name: str
    version: int
    state: State
    reason: str = ""
