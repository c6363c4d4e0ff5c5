"""What states are called in the names of pools."""

import re
from collections.abc import Collection, Sequence
from typing import Final

_OTHER: Final = re.compile(r"[^A-Za-z0-9_.]+")


def pool_names(states: Sequence[str], taken: Collection[str]) -> list[str]:
    """Name states after the inputs that they are.

    Args:
        states: Inputs of the original.
        taken: Names of the original's own inputs and outputs, which no pool may have.
    """
    names: list[str] = []
    for state in states:
        base = _OTHER.sub("_", state).strip("_.") or "state"
        name, number = base, 1
        while name in names or {f"{name}_pool", f"{name}_pool_out"} & set(taken):
            number += 1
            name = f"{base}_{number}"
        names.append(name)
    return names
