"""`carryover train`."""

from pathlib import Path
from typing import Annotated

import typer

from carryover.cli.help import flow

HELP = """Train the model that CONFIG describes, and leave a run folder.

The run folder holds the best weights, the config, the vocabularies, the metrics and the data's fingerprint; it is what
`evaluate` and `export` take. A run that was interrupted (Ctrl-C, SIGTERM, a crash) goes on where it stopped; on a CPU
it ends with the same bits as if nothing had happened, unless the config lets the clock decide (limits.max_minutes,
schedule.follow_time). A finished run is left as it is.

\b
Examples:
  carryover train configs/demo.yaml
  carryover train configs/tagger_ewt.yaml --run runs/tagger-2
"""


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Training config, a YAML file; see configs/.")],
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder.", show_default="runs/<name of the config>")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with an interrupted run, or refuse to touch it.")
    ] = True,
) -> None:
    """Train; see HELP."""
    from carryover.cli.console import make_console
    from models.training.fit import fit

    console = make_console()
    folder = fit(config, run, resume, console)
    console.print(f"run: {folder}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=flow(HELP))(train)
