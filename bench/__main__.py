"""The service beside raw ONNX Runtime and other servers: same models, same machine, same run, alternating.

    python -m bench steps       session steps, closed loop, against raw ONNX Runtime in process
    python -m bench tagging     tagging, closed loop, against raw ONNX Runtime with like lengths together
    python -m bench oip         session steps through the Open Inference Protocol, beside our own stream
    python -m bench imported    other people's recurrent models, imported, beside their files run in a loop
    python -m bench poisson     Transduce under Poisson arrivals, step-level against request-level batching
    python -m bench overload    three times what the service can do, and what comes after
    python -m bench memory      memory a session, with many open
    python -m bench peers ...   other servers on the same model; its own options
    python -m bench all         all of these

Every benchmark prints a table; with --out it writes JSON and, where matplotlib is installed, plots into a folder.
Answers are compared with the raw runtime's. The load generator shares the machine; its CPU share is printed.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from rich.console import Console

from bench import imported, memory, oip, overload, poisson, steps, tagging
from bench.report import save, show

BENCHMARKS: dict[str, ModuleType] = {
    "steps": steps,
    "tagging": tagging,
    "oip": oip,
    "imported": imported,
    "poisson": poisson,
    "overload": overload,
    "memory": memory,
}

WIDTH = 180  # of tables in a file or a pipe


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement, in seconds")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before each that do not count")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; medians are shown")
    parser.add_argument("--out", type=Path, help="folder for JSON files and plots")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in BENCHMARKS.items():
        one = commands.add_parser(name, help=str(module.__doc__).splitlines()[0], description=module.__doc__)
        _common(one)
        module.add_arguments(one)
    _common(commands.add_parser("all", help="everything, with the defaults"))
    commands.add_parser("peers", help="see python -m bench.peers --help", add_help=False)
    return parser


def _peers(arguments: list[str], out: Path | None = None) -> int:
    figures = [f"--json={out / 'peers.json'}"] if out else []
    return subprocess.call([sys.executable, "-m", "bench.peers", *arguments, *figures])


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["peers"]:
        return _peers(given[1:])
    parser = _parser()
    options = parser.parse_args(given)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    shared = [f"--{name}={getattr(options, name)}" for name in ("seconds", "warmup", "rounds")]
    shared += [f"--out={options.out}"] if options.out else []
    for name, module in BENCHMARKS.items():
        if options.command not in (name, "all"):
            continue
        chosen = options if options.command == name else parser.parse_args([name, *shared])
        report = module.measure(chosen, console)
        show(report, console)
        if options.out:
            save(report, options.out, console)
    if options.command == "all":
        return _peers(["all", f"--rounds={options.rounds}", f"--seconds={options.seconds}"], options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
