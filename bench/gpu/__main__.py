"""Everything that only a GPU can show, in under eight minutes.

    python -m bench.gpu [--out FILE]

    machine     card, driver, CUDA, cuDNN, ONNX Runtime, PyTorch, processor, power
    models      bundles with random weights; no data and no network
    parity      every exported family against the processor (1e-5 in fp32, TF32 off); no recurrent node on the processor
    residence   state updated in place; a poisoned row stays and reaches nobody; graphs captured; memory
    traffic     bytes between host and device a step: tokens, indices, results, and none of state
    peer        PyTorch's cuDNN LSTM on the same shapes, eager and captured; what the card can do
    steps       steps/s in process at 64 to 16,384 sessions, LSTM of 2x512 and 2x1,024, fp32 and fp16, beside the floor
    wire        the same through gRPC
    crossover   processor or card by batch size, for the models that the configs train

Each part runs in a process of its own within its seconds; what fails is a row with the reason, and the rest goes on. It
installs nothing. It needs an ONNX Runtime with CUDA; torch and onnx make the models, unless --models names a folder
where they are. Exit status: 0; 1 where a part failed or something promised does not hold; 3 without a GPU.

    python -m bench.gpu --provider cpu --smoke      every part, tiny, on the processor: does the script itself work?
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.gpu import machine
from bench.gpu.journal import aligned
from bench.gpu.parts import PARTS, Order, Outcome, run
from bench.gpu.plan import FULL, SMOKE
from bench.report import Report, Row, show

NO_CARD: Final = 3
WIDTH: Final = 200  # of tables in a file or a pipe
_SHORTEST_S: Final = 2.0  # of a part that is begun at all


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write all of it to this JSON file too")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="cpu: with --smoke alone")
    parser.add_argument("--smoke", action="store_true", help="every part tiny, to see that the script works")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="these alone, in order")
    parser.add_argument("--models", type=Path, help="folder of the models: made there where they are missing, and kept")
    parser.add_argument("--seconds", type=float, default=470.0, help="of the whole run, in which parts must end")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts and print what they found; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.provider == "cpu" and not options.smoke:
        parser.error("--provider cpu: expected --smoke with it: a processor shows nothing about a card")
    if options.provider == "cuda" and (reason := machine.missing()):
        print(f"bench.gpu: no GPU can be used here: {reason}", file=sys.stderr)
        return NO_CARD
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    with ExitStack() as stack:
        work = stack.enter_context(tempfile.TemporaryDirectory(prefix="carryover-gpu-"))
        outcomes = _run_all(options, Path(work), console)
    return summarise(outcomes, console)


def _run_all(options: argparse.Namespace, work: Path, console: Console) -> list[Outcome]:
    """Run the parts in order, each within its seconds and those that are left of all."""
    models = options.models or work / "models"
    until = time.monotonic() + options.seconds
    outcomes: list[Outcome] = []
    for part in (one for one in PARTS if one in options.parts):
        budget_s = min((SMOKE if options.smoke else FULL).budgets[part], max(_SHORTEST_S, until - time.monotonic()))
        console.print(f"{part}: {PARTS[part].shows}; at most {budget_s:.0f} s", style="dim", highlight=False)
        order = Order(part, options.provider, options.smoke, str(work), str(Path(models).absolute()), budget_s)
        outcomes.append(run(order))
        _show(outcomes[-1], console)
        if options.out:  # after each part: whoever ends this early has what there is
            options.out.write_text(json.dumps(content(outcomes, options), indent=1) + "\n", encoding="utf-8")
    return outcomes


def _show(outcome: Outcome, console: Console) -> None:
    for title, rows in outcome.found.tables.items():
        show(Report("gpu", title, aligned(rows)), console)
    for note in outcome.found.notes:
        console.print(note, highlight=False)
    for line in outcome.found.broken:
        console.print(f"DOES NOT HOLD: {line}", style="bold red", highlight=False)


def summarise(outcomes: Sequence[Outcome], console: Console) -> int:
    """Print how the parts went; returns the exit status."""
    rows: list[Row] = [
        {
            "part": one.part,
            "s": one.used_s,
            "of s": one.budget_s,
            "came to its end": "no: " + one.fault if one.fault else "yes",
            "rows without figures": len(one.found.empty_rows),
            "does not hold": len(one.found.broken),
        }
        for one in outcomes
    ]
    total = sum(one.used_s for one in outcomes)
    show(Report("gpu", "parts", rows, [f"{total:.0f} s in all"]), console)
    for one in outcomes:
        for note in one.found.broken:
            console.print(f"DOES NOT HOLD: {one.part}: {note}", style="bold red", highlight=False)
    return int(any(one.fault or one.found.broken or one.found.empty_rows for one in outcomes))


def content(outcomes: Sequence[Outcome], options: argparse.Namespace) -> dict[str, object]:
    """What the JSON file holds."""
    return {
        "provider": options.provider,
        "smoke": options.smoke,
        "parts": {
            one.part: {
                "seconds": one.used_s,
                "budget_s": one.budget_s,
                "fault": one.fault,
                "broken": one.found.broken,
                "notes": one.found.notes,
                "tables": {title: aligned(rows) for title, rows in one.found.tables.items()},
            }
            for one in outcomes
        },
    }


if __name__ == "__main__":
    sys.exit(main())
