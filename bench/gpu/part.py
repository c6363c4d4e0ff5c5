"""The process of one part: python -m bench.gpu.part ORDER, which `bench.gpu.parts` starts."""

import importlib
import sys
from pathlib import Path

from bench.gpu.budget import Budget
from bench.gpu.journal import Journal, reason_of
from bench.gpu.parts import PARTS, Order
from bench.gpu.plan import FULL, SMOKE, Context, provider_named


def main(order: Order) -> int:
    """Do what is ordered; returns the exit status. What went wrong is the last line on stderr."""
    work = Path(order.work)
    context = Context(
        provider=provider_named(order.provider),
        size=SMOKE if order.smoke else FULL,
        work=work,
        models=Path(order.models),
        journal=Journal(work / f"{order.part}.jsonl"),
        budget=Budget(order.soft_s),
    )
    part = PARTS[order.part]
    try:
        getattr(importlib.import_module(part.module), part.function)(context)
    except (Exception, SystemExit) as error:
        print(reason_of(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Order.parse(sys.argv[1])))
