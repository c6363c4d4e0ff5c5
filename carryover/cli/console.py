"""Where commands print: as wide as the terminal, or wide enough for a table where there is none."""

import sys

from rich.console import Console

PIPED_WIDTH = 120


def make_console() -> Console:
    """Give a console on standard output that colours only what we mark."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
