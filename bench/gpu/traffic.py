"""What goes between host and device in a step: tokens, indices and results, and no byte of state.

Counted twice: by a memory of the device that passes everything on and counts it, and in ONNX Runtime's own profile of
the step graph, whose copies between providers are nodes of their own.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.gpu import inputs, models
from bench.gpu.journal import NOTE, reason_of
from bench.gpu.opened import Opened, open_bundle
from bench.gpu.plan import Context
from bench.gpu.raw import open_raw
from bench.gpu.steps import OUTPUTS
from bench.report import Row
from export.manifest import Manifest, variants, with_variant
from service.runtime.device.memory import ALIGNMENT

TABLE: Final = "bytes between host and device, a step"
_STEPS: Final = 10


def show(context: Context) -> None:
    """The part."""
    for hidden in context.size.hiddens:
        for precision in models.PRECISIONS:
            name = models.step_name(hidden, precision)
            try:
                _of_model(context, name)
            except Exception as error:  # that of a model says nothing of the next
                context.journal.row(TABLE, {"model": name, NOTE: reason_of(error)})


def _of_model(context: Context, name: str) -> None:
    context.budget.need(2.0)
    size, folder = context.size, models.bundle(models.timed(context.models), name)
    manifest = models.manifest_of(folder)
    copies = sum(
        copies_in_graph(folder, with_variant(manifest, variant), context.provider, min(size.sessions), context.work)
        for variant in (None, *variants(manifest))
    )
    with open_bundle(
        folder, context.provider, max(size.sessions) + inputs.FIRST_ROW, step_alone=True, counted=True
    ) as opened:
        for rows in size.sessions:
            head: Row = {"model": name, "sessions": rows}
            row = context.journal.attempt(TABLE, head, partial(_row, context, opened, rows))
            if row and row["beyond"]:
                context.journal.broken(f"{name}, {rows} sessions: expected no other bytes, got {row['beyond']}")
    context.journal.note(f"{name}, all variants: {copies:,} bytes copied between providers by nodes of the step graph")
    if copies:
        context.journal.broken(f"{name}: expected no copies within the step graph, got {copies:,} bytes")


def _row(context: Context, opened: Opened, rows: int) -> Row:
    slots = inputs.slots_of(rows)
    generator = np.random.default_rng(0)
    for step in range(2 + _STEPS):
        if step == 2:  # the first allocate and bind
            opened.traffic.clear()
        fed = {"tokens": generator.integers(4, context.size.vocabulary, rows)}
        fed |= {"read_slots": slots, "write_slots": slots}
        given = opened.run("step", fed, OUTPUTS)
    up, down = (count / _STEPS for count in (opened.traffic.uploaded, opened.traffic.downloaded))
    asked = sum(array.nbytes for array in fed.values())
    answered = sum(array.nbytes for array in given.values())
    return {
        "up": up,
        "tokens and indices": asked,
        "down": down,
        "results": answered,
        "beyond": beyond(up, asked, len(fed)) + beyond(down, answered, len(given)),
        "state of these sessions": rows * opened.runner.state_bytes,
    }


def beyond(moved: float, asked: float, num_tensors: int) -> float:
    """Bytes that moved and that neither the tensors themselves nor their alignment explain."""
    return max(0.0, moved - asked - ALIGNMENT * num_tensors)


def copies_in_graph(folder: Path, manifest: Manifest, provider: str, rows: int, work: Path) -> int:
    """Bytes a run that ONNX Runtime's own nodes copy between providers within the step graph, by its profile.

    Args:
        folder: Bundle of a language model.
        manifest: Its own, or that of a variant.
        provider: Where it runs.
        rows: B.
        work: Where the profile is written.
    """
    session = open_raw(folder / manifest.graphs["step"].file, provider, profile=work / "profile")
    slots = inputs.slots_of(rows)
    feeds: dict[str, Any] = {"tokens": np.full(rows, 4, np.int64), "read_slots": slots, "write_slots": slots}
    for state in manifest.states:
        feeds[str(state.pool_input)] = np.zeros((rows + inputs.FIRST_ROW, *state.shape), state.dtype)
    session.run(list(OUTPUTS), feeds)
    profile = Path(session.end_profiling())
    events = json.loads(profile.read_text(encoding="utf-8"))
    profile.unlink()
    copies = [one["args"] for one in events if str(one.get("args", {}).get("op_name", "")).startswith("Memcpy")]
    return sum(int(args.get("output_size", 0)) for args in copies)
