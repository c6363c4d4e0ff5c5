"""Names for what is added to a graph."""

from typing import Final

import onnx

from export.graph.names import all_names, free_name

_PREFIX: Final = "carryover"


class Names:
    """Names that are taken, and new ones that are not.

    Args:
        graph: Whose.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = set(all_names(graph))

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def fresh(self, base: str) -> str:
        """A name like `base` that nothing has."""
        name = free_name(f"{_PREFIX}/{base}", self._taken)
        self._taken.add(name)
        return name
