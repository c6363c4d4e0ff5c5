"""Processor or card: the models that the configs train, rows a second of both by how many rows are ready at a time.

Measured as `carryover bench crossover` does it: with all cores on the processor, in one run on the card.
"""

import os
from functools import partial
from typing import Final

from bench.gpu import models
from bench.gpu.opened import open_bundle, open_plain
from bench.gpu.plan import Context
from bench.report import Cell, Row
from service.measuring.crossover import measure, slots_for

TABLE: Final = "rows/s, processor and card, by rows that are ready at a time"
_MEMORY_ROWS: Final = 256  # those of a measurement are few: all rows read the same
_LEAST_S: Final = 4.0  # of a model


def show(context: Context) -> None:
    """The part."""
    for name in context.size.configs:
        context.journal.attempt(TABLE, {"config": name}, partial(_row, context, name))


def _row(context: Context, name: str) -> Row:
    context.budget.need(_LEAST_S)
    folder = models.bundle(models.configured(context.models), name)
    sizes, runners = context.size.crossover_rows, os.cpu_count() or 1
    slots = slots_for(sizes)
    with (
        open_plain(folder, slots, memory_rows=_MEMORY_ROWS) as plain,
        open_bundle(folder, context.provider, slots, memory_rows=_MEMORY_ROWS) as device,
    ):
        seconds = context.size.crossover_seconds
        found = measure(plain.runner, device.runner, sizes, seconds, runners, host=context.provider)
    row: dict[str, Cell] = {"graph": found.graph}
    for rows in sizes:
        row |= {f"{rows}, cores": found.cpu[rows].rows_per_s, f"{rows}, card": found.cuda[rows].rows_per_s}
    return {**row, "card is quicker from": found.row if found.row is not None else "never"}
