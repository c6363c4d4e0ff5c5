"""Why a file cannot be imported.

ImportRefused        the file, the options or the model itself; nothing was written
├── AmbiguousStates   which tensors are state cannot be told; lists the candidates
└── CheckFailed       what was made of the model does not do what the model does
"""


class ImportRefused(Exception):
    """A model cannot be imported as asked.

    Args:
        reason: One line, expected and got, that its owner can act on.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(" ".join(reason.split()))


class AmbiguousStates(ImportRefused):
    """Which outputs are the next values of which inputs cannot be told from the model; says what was considered."""


class CheckFailed(ImportRefused):
    """The rewritten model differs from the original; says in which output and by how much."""
