"""Steps a second in process: the service's runner, all sessions in one run, beside PyTorch and beside the floor."""

import itertools
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from bench.gpu import inputs, models
from bench.gpu.figures import Figures, Torch, figures_of
from bench.gpu.floor import FORMULA, Floor
from bench.gpu.journal import NOTE, reason_of
from bench.gpu.opened import Opened, open_bundle
from bench.gpu.plan import GOAL, Context
from bench.gpu.timing import seconds_each
from bench.report import Row
from bench.tokens import token
from export.manifest import Variant, variants

TABLE: Final = "steps/s in process, all sessions in one run"
OUTPUTS: Final = ("top_log_probs", "top_tokens")
_BATCHES: Final = 8  # different tokens that a measurement goes round


class Model(NamedTuple):
    """What is opened.

    Args:
        hidden: Units of a layer.
        precision: fp32 or fp16.
        variant: Of the step; None: recurrent nodes.
        graphs: Whether steps are captured.
    """

    hidden: int
    precision: str
    variant: Variant | None
    graphs: bool


def show(context: Context) -> None:
    """The part: with graphs captured first, which is how it is served."""
    size, figures = context.size, figures_of(context.work)
    context.journal.note(FORMULA)
    context.journal.note(f"x captured: our step over PyTorch's captured one; the goal is at most {GOAL}")
    repository = models.timed(context.models)
    made = models.made(repository)
    for graphs, precision, hidden in itertools.product((True, False), models.PRECISIONS, size.hiddens):
        name = models.step_name(hidden, precision)
        found = variants(models.manifest_of(models.bundle(repository, name))) if name in made else ()
        for variant in (None, *found) if graphs else (None,):
            _of_model(context, Model(hidden, precision, variant, graphs), figures)


def _of_model(context: Context, model: Model, figures: Figures) -> None:
    size = context.size
    head: Row = {
        "hidden": model.hidden,
        "precision": model.precision,
        "cells": model.variant or "node",
        "graphs": "on" if model.graphs else "off",
    }
    slots = max(size.sessions) + inputs.FIRST_ROW
    try:
        context.budget.need(2.0)
        folder = models.bundle(models.timed(context.models), models.step_name(model.hidden, model.precision))
        with open_bundle(
            folder, context.provider, slots, cuda_graphs=model.graphs, step_alone=True, variant=model.variant
        ) as opened:
            for rows in size.sessions:
                measure = partial(_row, context, opened, model, rows, figures)
                context.journal.attempt(TABLE, {**head, "sessions": rows}, measure)
    except Exception as error:  # that of a model says nothing of the next
        context.journal.row(TABLE, {**head, NOTE: reason_of(error)})


def run_steps(opened: Opened, rows: int, vocabulary: int, seconds: float) -> float:
    """Step so many sessions together for a while; seconds a step."""
    slots = np.random.default_rng(0).permutation(inputs.slots_of(rows))  # sessions do not lie in order
    batches = [np.array([token(int(slot), t, vocabulary) for slot in slots], np.int64) for t in range(_BATCHES)]
    count = 0

    def step() -> None:
        nonlocal count
        fed = {"tokens": batches[count % _BATCHES], "read_slots": slots, "write_slots": slots}
        opened.runner.run("step", fed, OUTPUTS)
        count += 1

    return seconds_each(step, seconds)


def _row(context: Context, opened: Opened, model: Model, rows: int, figures: Figures) -> Row:
    context.budget.need(2 * context.size.seconds)
    took_us = run_steps(opened, rows, context.size.vocabulary, context.size.seconds) * 1e6
    torch = figures.torch.get((model.hidden, model.precision, rows), Torch(None, None))
    least = Floor.of(context.size, model.hidden, model.precision)
    floor_us = least.seconds(rows, figures.card, model.precision) * 1e6 if figures.card else None
    ratio = took_us / torch.captured_us if torch.captured_us else None
    return {
        "us a step": took_us,
        "steps/s": rows / took_us * 1e6,
        "captured": opened.captured(rows),
        "torch eager us": torch.eager_us,
        "torch captured us": torch.captured_us,
        "x captured": ratio,
        f"<= {GOAL}": None if ratio is None else "yes" if ratio <= GOAL else "no",
        "floor us": floor_us,
        "x floor": took_us / floor_us if floor_us else None,
    }
