"""What the checks of an export compare: something that runs a model's graphs over pools of state and memory.

Two kinds exist: the exported graphs in ONNX Runtime (`export.parity`) and the PyTorch module that they came from
(`export.reference`). Both take the same feeds, `read_slots`, `write_slots` and `source_rows` included, so that a check
is: the same feeds to both, and whatever comes out or lies in the pools afterwards compared.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from export.manifest import GraphKind

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Feeds = Mapping[str, Array]


class Backend(Protocol):
    """Runs graphs over pools that it owns."""

    @property
    def pools(self) -> Mapping[str, Array]:
        """The pools by state or memory name, (N, ...) or (P, ...), of floats. Writing into them sets the state."""

    def allocate(self, num_slots: int, num_rows: int) -> None:
        """Replace the pools by zeros: N slots for each state, P rows for each memory."""

    def run(self, kind: GraphKind, feeds: Feeds) -> dict[str, Array]:
        """Run one graph and update the pools.

        Args:
            kind: Which graph.
            feeds: Its inputs by name, without the pools.

        Returns:
            Its outputs by name, without the pools. A reference gives `log_probs` (B, V) for the whole vocabulary in
            place of the best few (`top_log_probs`, `top_tokens`).
        """
