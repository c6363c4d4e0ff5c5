"""`carryover models`: what a repository holds or a server serves."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from carryover.cli.help import flow

HELP = """List the models of a repository (every version, and what is wrong with a broken one) or of a running server.

\b
Examples:
  carryover models --repository repository
  carryover models --server 127.0.0.1:8001
"""

# What a server tells of a bundle that it refused; the whole story is in its log, for its operator.
REFUSALS = {
    "bundle": "its files are missing, were changed, or do not fit together (the server's log says which)",
    "graphs": "its graphs do not run on that server as they must (the server's log says why)",
    "unknown": "for a reason that this client is too old to know (the server's log says it)",
}


def models(
    repository: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the model bundles.")] = None,
    server: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="A running service.")] = None,
) -> None:
    """List; see HELP."""
    if (repository is None) == (server is None):
        raise typer.BadParameter("expected one of the two", param_hint="--repository / --server")
    if repository is not None:
        _list_repository(repository)
    elif server is not None:
        _list_server(server)


def _list_repository(repository: Path) -> None:
    from export.bundle import BundleError, list_versions, load_manifest

    rows, refused = [], []
    for bundle in list_versions(repository):
        try:
            found = load_manifest(bundle.folder)
        except BundleError as error:
            refused.append((bundle.name, bundle.version, str(error)))
            continue
        size = sum(entry.num_bytes for entry in found.files.values())
        metrics = _metrics(found.metrics)
        rows.append((found.name, str(found.version), found.task, found.precision, f"{size / 1e6:.1f} MB", metrics))
    _print(("model", "version", "task", "precision", "size", "measured"), rows, refused)


def _list_server(server: str) -> None:
    from carryover.client.sync import Client

    with Client(server) as client:
        found = client.models()
    rows = [
        (
            model.ref.name,
            str(model.ref.version),
            model.task,
            model.precision,
            model.provider.removesuffix("ExecutionProvider"),
            f"{model.load.sessions} of {model.limits.max_sessions}" if model.limits.max_sessions else "none",
            "; ".join((_metrics(model.metrics), *(f"warning: {warning}" for warning in model.warnings))),
        )
        for model in found.models
    ]
    refused = [(model.ref.name, model.ref.version, REFUSALS[model.reason]) for model in found.refused]
    _print(("model", "version", "task", "precision", "runs on", "sessions", "measured"), rows, refused)


def _metrics(metrics: Mapping[str, float]) -> str:
    """Show the model's own figures, not the baseline's."""
    own = sorted((name, value) for name, value in metrics.items() if not name.startswith("baseline/"))
    return ", ".join(f"{name} {value:.4g}" for name, value in own)


def _print(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], refused: list[tuple[str, int, str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Piped, a row is a line, however long.
    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    if rows:
        console.print(table)
    else:
        console.print("no models")
    for name, version, reason in refused:
        console.print(f"refused: {name} {version or ''}: {reason}", markup=False, highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=flow(HELP))(models)
