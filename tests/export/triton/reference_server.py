"""A model of the reference server's sequences with implicit state: what it would answer, in a screen of code."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.export.triton.reference_rules import check

Array = npt.NDArray[Any]
_NUMPY = {"TYPE_FP32": "<f4", "TYPE_INT64": "<i8", "TYPE_INT32": "<i4", "TYPE_BOOL": "?", "TYPE_FP16": "<f2"}


class ReferenceServer:
    """One model of a repository, loaded.

    Args:
        folder: `<repository>/<name>`.
    """

    def __init__(self, folder: Path) -> None:
        self.config, self._session = check(folder)
        self.max_batch_size: int = self.config.get("max_batch_size", 0)
        self._states = self.config.get("sequence_batching", {}).get("state", [])
        self._folder = folder
        self._kept: dict[int, dict[str, Array]] = {}

    def infer(self, sequences: list[int], inputs: dict[str, Array], start: bool = False) -> dict[str, Array]:
        """Take a step of several sequences at a time, a row each; as many as it can batch.

        Args:
            sequences: Their ids.
            inputs: By name, a row for each; shared ones without.
            start: Whether all of them begin.
        """
        if start:
            self._kept |= {sequence: self._initial() for sequence in sequences}
        if self.max_batch_size == 0:
            assert len(sequences) == 1
        else:
            assert len(sequences) <= self.max_batch_size
        axis_first = self.max_batch_size > 0
        feeds = dict(inputs)
        for state in self._states:
            name = state["input_name"]
            kept = [self._kept[sequence][name] for sequence in sequences]
            feeds[name] = np.stack(kept) if axis_first else kept[0]
        names = [value.name for value in self._session.get_outputs()]
        results = dict(zip(names, self._session.run(names, feeds), strict=True))
        for state in self._states:
            new = results.pop(state["output_name"])
            for row, sequence in enumerate(sequences):
                self._kept[sequence][state["input_name"]] = new[row] if axis_first else new
        return results

    def _initial(self) -> dict[str, Array]:
        arrays = {}
        for state in self._states:
            (initial,) = state["initial_state"]
            dims, dtype = [int(dim) for dim in state["dims"]], _NUMPY[state["data_type"]]
            if "data_file" in initial:
                path = self._folder / "initial_state" / initial["data_file"]
                arrays[state["input_name"]] = np.fromfile(path, dtype).reshape(dims)
            else:
                arrays[state["input_name"]] = np.zeros(dims, dtype)
        return arrays
