"""State that stays on the card: updated in place, rows apart, captured or not, and how many bytes all of it takes.

Shown through the runner's own face, on rows that are as they are: a row of NaN stays one bit for bit whoever is stepped
beside it, whoever reads it gets NaN, and nobody else does. With graphs captured the answers are those without.
"""

from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench.gpu import inputs, models
from bench.gpu.opened import Opened, open_bundle
from bench.gpu.plan import Context
from bench.gpu.steps import OUTPUTS
from bench.report import Row

Array = npt.NDArray[Any]
TABLE: Final = "state on the device"
MEMORY: Final = "memory of the device that a model takes, MB"
_ROWS: Final = 5  # stepped together; no power of two, so that a captured run is padded
_STEPS: Final = 6
_POISONED, _BYSTANDER = inputs.FIRST_ROW + _ROWS, inputs.FIRST_ROW + _ROWS + 1


def show(context: Context) -> None:
    """The part."""
    size = context.size
    slots = max(size.sessions) + inputs.FIRST_ROW + 2
    for hidden in size.hiddens:
        for precision in models.PRECISIONS:
            name = models.step_name(hidden, precision)
            answers: dict[bool, list[Array]] = {}
            for graphs in (True, False):
                head: Row = {"model": name, "graphs": "on" if graphs else "off"}
                row = context.journal.attempt(TABLE, head, partial(_row, context, name, slots, graphs, answers))
                for promise in ("poisoned row stays", "bystander stays", "poison reaches its reader alone"):
                    if row and row[promise] != "yes":
                        context.journal.broken(f"{name}, graphs {head['graphs']}: {promise}: {row[promise]}")


def _row(context: Context, name: str, slots: int, graphs: bool, answers: dict[bool, list[Array]]) -> Row:
    context.budget.need(1.0)
    folder = models.bundle(models.timed(context.models), name)
    with open_bundle(folder, context.provider, slots, cuda_graphs=graphs, step_alone=True) as opened:
        before = context.budget.used
        opened.runner.warm_up()  # in this thread, which steps: what is captured is captured for a thread
        warm_up_s = context.budget.used - before
        found = prove(opened, context.size.vocabulary, answers.setdefault(graphs, []))
        report = {what: num_bytes / 1e6 for what, num_bytes in opened.runner.memory_report().items()}
        context.journal.row(MEMORY, {"model": name, "graphs": "on" if graphs else "off", **report})
        apart = None
        if True in answers and False in answers:
            pairs = zip(answers[True], answers[False], strict=True)
            apart = max(float(np.abs(one - other).max()) for one, other in pairs)
        return {
            "updated": "in place" if opened.runner.in_place else "ping-pong",
            **found,
            "captured rows": opened.captured_rows(),
            "warm-up s": warm_up_s,
            "apart from graphs on": apart,
            "not captured because": opened.runner.uncaptured or None,
        }


def prove(opened: Opened, vocabulary: int, answers: list[Array]) -> Row:
    """Step a few rows beside a poisoned one and a bystander, then read the poisoned one.

    Args:
        opened: On pools of at least `_BYSTANDER` + 1 rows.
        vocabulary: Ids of the model.
        answers: The log-probabilities of every step are added to it, and the states in the end.
    """
    generator = np.random.default_rng(0)
    runner, slots = opened.runner, inputs.slots_of(_ROWS)
    shapes = {name: array.shape[1:] for name, array in runner.read_rows([0]).items()}
    poison = {name: np.full((1, *shape), np.nan, np.float32) for name, shape in shapes.items()}
    other = {name: generator.uniform(-1, 1, (1, *shape)).astype(np.float32) for name, shape in shapes.items()}
    runner.write_rows([_POISONED], poison)
    runner.write_rows([_BYSTANDER], other)
    read = np.zeros_like(slots)
    for _ in range(_STEPS):
        fed = {"tokens": generator.integers(4, vocabulary, _ROWS), "read_slots": read, "write_slots": slots}
        answers.append(opened.run("step", fed, OUTPUTS)["top_log_probs"])
        read = generator.permutation(slots)  # crossed: each goes on from where another was
        slots = generator.permutation(slots)
    after = runner.read_rows(slots.tolist())
    answers.extend(after[name] for name in sorted(after))
    clean = all(np.isfinite(array).all() for array in answers)
    stays = {row: runner.read_rows([row]) for row in (_POISONED, _BYSTANDER)}
    read = np.array([_POISONED, *slots[1:]], np.int64)
    fed = {"tokens": generator.integers(4, vocabulary, _ROWS), "read_slots": read, "write_slots": slots}
    opened.run("step", fed, OUTPUTS)
    ill = runner.read_rows(slots.tolist())
    spread = all(np.isnan(array[:1]).all() and np.isfinite(array[1:]).all() for array in ill.values())
    return {
        "poisoned row stays": _yes(all(_same(stays[_POISONED][name], poison[name]) for name in shapes)),
        "bystander stays": _yes(all(_same(stays[_BYSTANDER][name], other[name]) for name in shapes)),
        "poison reaches its reader alone": _yes(clean and spread),
    }


def _same(got: Array, expected: Array) -> bool:
    """Bit for bit."""
    return got.dtype == expected.dtype and got.tobytes() == np.ascontiguousarray(expected).tobytes()


def _yes(it_is: bool) -> str:
    return "yes" if it_is else "NO"
