"""`carryover bench compare`: a short name for `python -m bench`, which lives in the checkout, not in the package."""

import typer

from carryover.cli.help import flow

HELP = """Compare the service with raw ONNX Runtime in process: steps per second, p50 and p99, in one run.

Everything after the name goes to `python -m bench`; `carryover bench compare --help` shows its options.

\b
Example:
  carryover bench compare steps --seconds 2 --rounds 1
"""


def compare(context: typer.Context) -> None:
    """Measure; see HELP."""
    import runpy
    import sys
    from importlib.util import find_spec

    from carryover.cli.errors import CommandError

    if find_spec("bench") is None:
        raise CommandError("bench: expected the folder bench/ of a checkout, got an install without it")
    sys.argv = ["carryover bench compare", *context.args]
    runpy.run_module("bench", run_name="__main__")


def register(app: typer.Typer) -> None:
    """Add the command."""
    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command(help=flow(HELP), context_settings=settings)(compare)
