"""The `carryover` command: one file a subcommand, none of which imports anything heavy before it is called."""

import io
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from carryover.cli import bench, call, demo, evaluate, export, import_onnx, models, serve, train
from carryover.cli.errors import INTERRUPTED, report
from carryover.cli.help import flow

HELP = """Train recurrent sequence models, export them to ONNX, serve them over gRPC with their state kept in place.

The road: train CONFIG, export RUN --repository DIR, serve --repository DIR, call MODEL TEXT. `carryover demo` goes
down all of it with real data in a few minutes. A model from elsewhere joins it with import-onnx FILE --repository DIR.

Exit status: 0 done, 1 failed (one line on standard error says why), 2 wrong usage, 130 interrupted.
"""

# For libraries that read it when they are loaded, which is later; what is set already stays.
ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime otherwise reports which models it runs
    # PyTorch's threads otherwise spin between operators, for long: where another process has one of the cores, training
    # was 10 to 50 times slower. 1000 turns is what OpenMP itself takes when it knows that it has too few cores.
    "GOMP_SPINCOUNT": "1000",
    "GRPC_VERBOSITY": "NONE",  # gRPC's own log lines: what matters of them comes back as errors
}

app = typer.Typer(
    name="carryover",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # what goes wrong is one line: see errors.py
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("carryover"))
        raise typer.Exit


@app.callback(help=flow(HELP))
def carryover(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that come before the command; see HELP."""


for module in (demo, train, evaluate, export, import_onnx, serve, call, models, bench):
    module.register(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit status.

    Args:
        arguments: Without the program's name; None takes those of the process.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without Unicode shows what it cannot as \u escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=arguments, prog_name="carryover")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if status == INTERRUPTED:
            print("carryover: interrupted", file=sys.stderr)
        return status
    except Exception as error:
        return report(error)
    return 0
