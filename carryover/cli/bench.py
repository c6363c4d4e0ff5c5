"""`carryover bench`: what models and the service do on this machine."""

from typing import Any

import typer
from typer.core import TyperGroup

from carryover.cli import bench_compare, bench_crossover
from carryover.cli.help import flow

HELP = """Measure on this machine: the CPU against the GPU, or the service against raw ONNX Runtime.

Without the name of a command it is `compare`.
"""
DEFAULT = "compare"


class Commands(TyperGroup):
    """Commands of which one is meant where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name in front where it is left out; `--help` alone is of the group.

        Args:
            ctx: A context of click, which some versions of typer bring along and others do not.
            args: What comes after `bench`.
        """
        named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else [DEFAULT, *args])


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=Commands, help=flow(HELP))
    for module in (bench_crossover, bench_compare):
        module.register(group)
    app.add_typer(group, name="bench")
