"""`carryover evaluate`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from carryover.cli.help import flow

HELP = """Measure a run's model on a split of its data, beside the common-sense baseline.

The baseline is what one gets without learning sequences: the most frequent tag of each word, n-grams, a dictionary,
the most frequent phoneme of each letter.

\b
Example:
  carryover evaluate runs/demo --split test
"""


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, as `train` leaves it.")],
    split: Annotated[Literal["dev", "test"], typer.Option(help="Part of the data; never the part trained on.")] = "dev",
) -> None:
    """Evaluate; see HELP."""
    from carryover.cli.console import make_console
    from models.training.evaluate import evaluate as measure

    measure(run, split, make_console())


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=flow(HELP))(evaluate)
