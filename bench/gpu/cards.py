"""Figures of known cards, from their makers' data sheets: dense, without sparsity, at full power.

Source: NVIDIA's data sheets of each.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Card:
    """What a card can do at most.

    Args:
        name: As it is sold, or how it was measured.
        fp32_ops: Operations a second in fp32, without tensor cores (TF32 is off).
        fp16_ops: Operations a second in fp16 on tensor cores, summed in fp32.
        bytes_per_s: Of the card's memory.
    """

    name: str
    fp32_ops: float
    fp16_ops: float
    bytes_per_s: float

    def ops(self, precision: str) -> float:
        """Operations a second in a precision."""
        return self.fp16_ops if precision == "fp16" else self.fp32_ops


# By the words that the driver's name for it has, the more exact first.
_KNOWN: Final = (
    ({"H200", "NVL"}, Card("H200 NVL", 60e12, 835e12, 4.8e12)),
    ({"H200"}, Card("H200 SXM", 67e12, 989e12, 4.8e12)),
    ({"H100", "NVL"}, Card("H100 NVL", 60e12, 835e12, 3.9e12)),
    ({"H100", "PCIe"}, Card("H100 PCIe", 51e12, 756e12, 2.0e12)),
    ({"H100", "HBM3"}, Card("H100 SXM", 67e12, 989e12, 3.35e12)),
    ({"A100", "SXM4", "80GB"}, Card("A100 SXM 80 GB", 19.5e12, 312e12, 2.039e12)),
    ({"A100", "PCIe", "80GB"}, Card("A100 PCIe 80 GB", 19.5e12, 312e12, 1.935e12)),
    ({"A100", "40GB"}, Card("A100 40 GB", 19.5e12, 312e12, 1.555e12)),
    ({"L40S"}, Card("L40S", 91.6e12, 362e12, 0.864e12)),
    ({"L4"}, Card("L4", 30.3e12, 121e12, 0.3e12)),
    ({"A10"}, Card("A10", 31.2e12, 125e12, 0.6e12)),
    ({"T4"}, Card("T4", 8.1e12, 65e12, 0.32e12)),
    ({"V100", "SXM2"}, Card("V100 SXM2", 15.7e12, 125e12, 0.9e12)),
)


def known(name: str) -> Card | None:
    """The data sheet of a card by the driver's name for it; None where it is not in the table, or a part of a card."""
    words = set(name.replace("-", " ").split())
    if "MIG" in words:
        return None
    return next((card for marks, card in _KNOWN if marks <= words), None)
