"""A session run alone: the step graph of a bundle under plain ONNX Runtime, one row (B=1) and one thread."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.ceiling import open_session
from export.bundle import load_manifest

OWN_SLOT = 2
Step = tuple[tuple[int, ...], tuple[float, ...]]  # the best ids after an input, and their log-probabilities


class Alone:
    """Steps the language model of a bundle.

    Args:
        bundle: Its folder.
    """

    def __init__(self, bundle: Path) -> None:
        self.manifest = load_manifest(bundle)
        self._session = open_session(bundle / self.manifest.graphs["step"].file, 1)
        self._states = [state for state in self.manifest.states if state.pool_input is not None]
        self._outputs = ["top_tokens", "top_log_probs", *(str(state.pool_output) for state in self._states)]

    def run(self, tokens: Sequence[int]) -> list[Step]:
        """The answers to inputs from the initial state on, every output of the graph."""
        pools: dict[str, npt.NDArray[np.generic]] = {
            str(state.pool_input): np.zeros((OWN_SLOT + 1, *state.shape), state.dtype) for state in self._states
        }
        write = np.array([OWN_SLOT], np.int64)
        read = np.array([0], np.int64)
        steps: list[Step] = []
        for token in tokens:
            feeds = {"tokens": np.array([token], np.int64), "read_slots": read, "write_slots": write, **pools}
            ids, log_probs, *after = self._session.run(self._outputs, feeds)
            pools = {str(state.pool_input): pool for state, pool in zip(self._states, after, strict=True)}
            steps.append((tuple(ids[0].tolist()), tuple(log_probs[0].tolist())))
            read = write
        return steps
