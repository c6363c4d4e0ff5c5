"""`carryover export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from carryover.cli.help import flow

HELP = """Export a run to ONNX and publish it in a model repository, as the next version of its name.

Nothing is published that has not passed: the graphs are compared with PyTorch on random batches and on real inputs,
alone and in company, and the report goes on the terminal and into the bundle. A failure names the worst tensor.

\b
Examples:
  carryover export runs/demo --repository repository
  carryover export runs/demo --repository repository --precision int8 --name demo-int8
  carryover export runs/demo --repository repository --triton other-repository
"""


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, as `train` leaves it.")],
    repository: Annotated[Path, typer.Option(metavar="DIR", help="Model repository; made where it does not exist.")],
    precision: Annotated[
        Literal["fp32", "int8"],
        typer.Option(help="Of the weights. int8 is checked against fp32 for agreement and for the task's metric."),
    ] = "fp32",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name to serve it by.", show_default="the run's name")
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Also write a model repository that NVIDIA Triton loads: its step with implicit state."
        ),
    ] = None,
) -> None:
    """Export; see HELP."""
    from carryover.cli.console import make_console
    from carryover.cli.publishing import publish, publish_for_triton
    from export.triton.repository import check_family
    from models.training.config import load_config

    if triton is not None:
        check_family(load_config(run / "config.yaml").model.family)  # before anything is published
    console = make_console()
    bundle = publish(run, repository, precision, name, console)
    if triton is not None:
        publish_for_triton(bundle.folder, triton, console)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=flow(HELP))(export)
