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
  carryover export runs/demo --repository repository --precision fp16 --for cuda --name demo-fp16
  carryover export runs/demo --repository repository --triton other-repository
"""


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, as `train` leaves it.")],
    repository: Annotated[Path, typer.Option(metavar="DIR", help="Model repository; made where it does not exist.")],
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(
            help="Of weights and products; states stay in fp32. fp16 (for GPUs) and int8 (for CPUs) are held against "
            "fp32 for agreement and for the task's metric."
        ),
    ] = "fp32",
    target: Annotated[
        Literal["any", "cuda"],
        typer.Option(
            "--for",
            help="cuda: also write the step out of other operators, of which the service measures and takes the "
            "quickest; the bundle grows by two to three times the step's weights.",
        ),
    ] = "any",
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
    if target == "cuda" and precision == "int8":
        raise typer.BadParameter(
            "expected fp32 or fp16 with --for cuda, got int8, which runs on the CPU alone", param_hint="--precision"
        )

    from carryover.cli.console import make_console
    from carryover.cli.publishing import publish, publish_for_triton
    from export.triton.repository import check_family
    from models.training.config import load_config

    if triton is not None:
        check_family(load_config(run / "config.yaml").model.family)  # before anything is published
    console = make_console()
    bundle = publish(run, repository, precision, name, console, for_cuda=target == "cuda")
    if triton is not None:
        publish_for_triton(bundle.folder, triton, console)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=flow(HELP))(export)
