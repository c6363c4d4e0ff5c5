"""Entry point of the `carryover` command: the client's install has no command, and says so in one line."""

import sys
from importlib.util import find_spec

NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command and exit with its status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"carryover: the command needs {' and '.join(missing)}, which the client's install leaves out: "
            "pip install 'carryover[serve]' to serve and call models, 'carryover[train]' to train and export them",
            file=sys.stderr,
        )
        sys.exit(1)
    from carryover.cli.app import run

    sys.exit(run())


if __name__ == "__main__":
    main()
