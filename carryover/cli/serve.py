"""`carryover serve`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from carryover.cli.help import flow

HELP = """Serve the models of a repository until SIGTERM or Ctrl-C: over gRPC, and over HTTP too.

HTTP has the Open Inference Protocol, gRPC that and our own API. On SIGTERM nothing new is admitted, what runs is
finished within a bound, and the exit status is 0. Every other setting (limits, TLS, timeouts, versions, each with its
unit and default: docs/settings.md) comes from CARRYOVER_<NAME> variables or a settings file; the command line wins over
the environment, the environment over the file.

\b
Examples:
  carryover serve --repository repository
  CARRYOVER_MAX_INPUT_TOKENS=2048 carryover serve --port 9000
"""


def serve(
    repository: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Model repository, as `export` fills it.", show_default="repository"),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=0, max=65535, help="Port; 0 takes a free one.", show_default="8001"),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=0, max=65535, help="Port of HTTP; 0 takes a free one.", show_default="8000"),
    ] = None,
    http: Annotated[
        bool | None, typer.Option("--http/--no-http", help="Whether to serve HTTP too.", show_default="True")
    ] = None,
    provider: Annotated[
        Literal["auto", "cuda", "cpu"] | None,
        typer.Option(help="auto: CUDA where it works; cuda: nothing else will do.", show_default="auto"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=1024, help="Threads of one model's arithmetic.", show_default="1"),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="CARRYOVER_SETTINGS", help="Settings file: .yaml, .toml or .env."),
    ] = None,
) -> None:
    """Serve; see HELP."""
    from service.main import serve as run
    from service.settings import load_settings

    chosen = load_settings(
        settings,
        repository=repository,
        host=host,
        port=port,
        http_port=http_port,
        http=http,
        provider=provider,
        threads=threads,
    )
    raise typer.Exit(run(chosen))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=flow(HELP))(serve)
