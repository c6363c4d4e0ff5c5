"""`carryover demo`: the whole road on real data, and each part of it again only where something is missing."""

from pathlib import Path
from typing import Annotated

import typer

from carryover.cli.help import flow

HELP = """Train, export, serve and call a model that pronounces English words: real data, no download, some minutes.

An encoder-decoder learns letters to phonemes from the lexicon of the package gruut-lang-en, is measured on words that
it never saw beside a baseline, is exported to ONNX with a parity report, and is served over gRPC; ten unseen words are
then pronounced, each phoneme printed as it is decided. A second demo reuses the run and the bundle.
"""


def demo(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Training config.", show_default="configs/demo.yaml")
    ] = None,
    run: Annotated[Path, typer.Option(metavar="DIR", help="Run folder.")] = Path("runs/demo"),
    repository: Annotated[Path, typer.Option(metavar="DIR", help="Model repository.")] = Path("repository"),
) -> None:
    """Go the whole road; see HELP."""
    from carryover.cli.errors import CommandError
    from carryover.cli.journey import Journey

    if config is None:
        config = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"
        if not config.is_file():
            raise CommandError(f"demo: expected the checkout's {config}, got an install without it; give --config")
    Journey(config, run, repository).go()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=flow(HELP))(demo)
