"""What parts tell each other: what the card can do, and how long PyTorch's steps take. No torch here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bench.gpu.cards import Card
from bench.gpu.journal import read
from bench.report import Row

CARD: Final = "what the card can do, at most"
TORCH: Final = "PyTorch on the same shapes: microseconds of a step, steps/s"
EAGER, CAPTURED = "eager us", "captured us"  # columns of it
_TERA, _GIGA = 1e12, 1e9


class Torch(NamedTuple):
    """PyTorch's microseconds a step; None: not measured."""

    eager_us: float | None
    captured_us: float | None


class Figures(NamedTuple):
    """What was found.

    Args:
        card: The data sheet's figures before those that were measured; None: neither.
        torch: By hidden size, precision and rows.
    """

    card: Card | None
    torch: Mapping[tuple[int, str, int], Torch]


def row_of(card: Card) -> Row:
    """The rest of a row of `CARD`."""
    return {
        "card": card.name,
        "fp32 TFLOP/s": card.fp32_ops / _TERA,
        "fp16 TFLOP/s": card.fp16_ops / _TERA,
        "GB/s": card.bytes_per_s / _GIGA,
    }


def figures_of(work: Path) -> Figures:
    """Read what the parts `machine` and `peer` of a run have written; nothing where they have not."""
    found = [read(work / f"{part}.jsonl").tables for part in ("machine", "peer")]
    cards = [_card(row) for tables in found for row in tables.get(CARD, ()) if "card" in row]
    torch = {
        (int(row["hidden"] or 0), str(row["precision"]), int(row["sessions"] or 0)): Torch(
            *(float(row[name] or 0) or None for name in (EAGER, CAPTURED))
        )
        for tables in found
        for row in tables.get(TORCH, ())
        if EAGER in row
    }
    return Figures(cards[0] if cards else None, torch)


def _card(row: Row) -> Card:
    fp32, fp16, gigabytes = (float(row[name] or 0) for name in ("fp32 TFLOP/s", "fp16 TFLOP/s", "GB/s"))
    return Card(str(row["card"]), fp32 * _TERA, fp16 * _TERA, gigabytes * _GIGA)
