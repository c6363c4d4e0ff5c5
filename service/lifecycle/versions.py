"""Which versions of a model are served: the newest few, some that are named, or all.

    latest 2        the two newest
    specific 1,3    versions 1 and 3
    all             every one

A version that cannot be opened does not count: the next older one takes its place among the latest.
"""

import re
from dataclasses import dataclass

EXPECTED = "latest N, specific N,N or all"
_PATTERN = re.compile(r"latest ([1-9][0-9]{0,8})|specific ([1-9][0-9]{0,8}(?: ?, ?[1-9][0-9]{0,8})*)|(all)")


@dataclass(frozen=True)
class VersionPolicy:
    """See the module docstring.

    Args:
        latest: Of how many of the newest; None: of any number.
        specific: Of these alone; empty: of any.
    """

    latest: int | None = 1
    specific: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "VersionPolicy":
        """Read a policy.

        Raises:
            ValueError: It is none.
        """
        match = _PATTERN.fullmatch(" ".join(text.split()))
        if match is None:
            raise ValueError(f"expected {EXPECTED}, got {text!r}")
        latest, specific, _ = match.groups()
        if latest is not None:
            return cls(latest=int(latest))
        if specific is not None:
            return cls(latest=None, specific=frozenset(map(int, specific.split(","))))
        return cls(latest=None)

    def wants(self, version: int) -> bool:
        """Whether a version may be served at all."""
        return not self.specific or version in self.specific

    @property
    def most(self) -> float:
        """Versions that are served at a time at most."""
        return float("inf") if self.latest is None else self.latest
