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
from bench.gpu.opened import open_bundle
from bench.gpu.plan import Context
from bench.gpu.raw import open_raw
from bench.gpu.steps import OUTPUTS
from bench.report import Row
from service.runtime.device.memory import ALIGNMENT

TABLE: Final = "bytes between host and device, a step"
_STEPS: Final = 10


def show(context: Context) -> None:
    """The part."""
    size = context.size
    for hidden in size.hiddens:
        for precision in models.PRECISIONS:
            for rows in size.sessions:
                name = models.step_name(hidden, precision)
                head: Row = {"model": name, "sessions": rows}
                row = context.journal.attempt(TABLE, head, partial(_row, context, name, rows))
                if row and (row["beyond"] or row["copies in the graph"]):
                    context.journal.broken(f"{name}, {rows} sessions: expected no other bytes, got {row}")


def _row(context: Context, name: str, rows: int) -> Row:
    context.budget.need(1.0)
    folder = models.bundle(models.timed(context.models), name)
    slots = inputs.slots_of(rows)
    generator = np.random.default_rng(0)
    with open_bundle(folder, context.provider, rows + inputs.FIRST_ROW, step_alone=True, counted=True) as opened:
        for step in range(2 + _STEPS):
            if step == 2:  # the first allocate, bind and capture
                opened.traffic.clear()
            fed = {"tokens": generator.integers(4, context.size.vocabulary, rows)}
            fed |= {"read_slots": slots, "write_slots": slots}
            given = opened.run("step", fed, OUTPUTS)
        up, down = (count / _STEPS for count in (opened.traffic.uploaded, opened.traffic.downloaded))
        state_bytes = opened.runner.state_bytes
    asked = sum(array.nbytes for array in fed.values())
    answered = sum(array.nbytes for array in given.values())
    more = beyond(up, asked, len(fed)) + beyond(down, answered, len(given))
    return {
        "up": up,
        "tokens and indices": asked,
        "down": down,
        "results": answered,
        "beyond": more,
        "state of these sessions": rows * state_bytes,
        "copies in the graph": copies_in_graph(folder, context.provider, rows, context.work),
    }


def beyond(moved: float, asked: float, num_tensors: int) -> float:
    """Bytes that moved and that neither the tensors themselves nor their alignment explain."""
    return max(0.0, moved - asked - ALIGNMENT * num_tensors)


def copies_in_graph(folder: Path, provider: str, rows: int, work: Path) -> int:
    """Bytes a run that ONNX Runtime's own nodes copy between providers within the step graph, by its profile.

    Args:
        folder: Bundle of a language model.
        provider: Where it runs.
        rows: B.
        work: Where the profile is written.
    """
    manifest = models.manifest_of(folder)
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
