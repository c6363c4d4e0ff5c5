"""Build and run the load generator of `bench/generator`.

python -m bench.drive            # builds it and prints where it is
$(python -m bench.drive) sessions --address 127.0.0.1:9000 --model m --sessions 64 --streams 8 --vocabulary 10000

It is C and needs gcc and nothing else: gcc -O2 -std=gnu11 -o generator bench/generator/*.c -lm
"""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

SOURCES = Path(__file__).parent / "generator"
CACHE = Path(__file__).parents[1] / "build" / "generator"  # git ignores it
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")
Result = dict[str, Any]  # what the generator prints; see bench/generator/measure.c


def build(cache: Path = CACHE) -> Path:
    """Compile the generator unless these very sources were compiled before; returns the program.

    Raises:
        SystemExit: There is no compiler, or it refused.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise SystemExit(
            "bench: the load generator is C: expected a compiler, got none. Install gcc (Debian: apt-get install gcc"
            " libc6-dev) or name one in CC."
        )
    sources = sorted(SOURCES.glob("*.[ch]"))
    digest = hashlib.sha256("\0".join((compiler, *FLAGS)).encode())
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    program = cache / digest.hexdigest()[:16] / "generator"
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:  # several builds at once do not meet half a program
        made = Path(folder) / "generator"
        units = [str(source) for source in sources if source.suffix == ".c"]
        done = subprocess.run([compiler, *FLAGS, "-o", str(made), *units, "-lm"], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"bench: {compiler} refused the load generator:\n{done.stderr[-2000:]}")
        made.replace(program)
    return program


def arguments(workload: str, options: dict[str, object]) -> list[str]:
    """The command line of a run; options by name, True and False as 1 and 0, a list repeats its option."""
    command = [str(build()), workload]
    for name, value in options.items():
        for one in value if isinstance(value, (list, tuple)) else (value,):
            command += ["--" + name.replace("_", "-"), str(int(one) if isinstance(one, bool) else one)]
    return command


def drive(workload: str, timeout_s: float = 600.0, /, **options: object) -> Result:
    """Run the generator to its end.

    Args:
        workload: `sessions`, `grpc` or `http`.
        timeout_s: After which it is killed.
        options: As in bench/generator/options.c.

    Raises:
        SystemExit: It found something wrong, which is said.
    """
    try:
        done = subprocess.run(arguments(workload, options), capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"bench: the load generator did not end within {timeout_s:.0f} s") from None
    if done.returncode:
        raise SystemExit(f"bench: {workload}: {done.stderr.strip()[-1000:] or f'exit status {done.returncode}'}")
    return dict(json.loads(done.stdout))


def write_messages(path: Path, messages: Iterable[bytes]) -> None:
    """Write the file that `--templates` reads: see bench/generator/calls.h."""
    with path.open("wb") as file:
        for message in messages:
            file.write(struct.pack("<I", len(message)) + message)


class Response(NamedTuple):
    """One kept answer.

    Args:
        call: Calls are counted as they are sent.
        caller: Who sent it.
        message: Which message of the file it sent.
        code: The status of gRPC (negative: none that could be read) or HTTP.
        parts: The answer's messages, or its body.
    """

    call: int
    caller: int
    message: int
    code: int
    parts: tuple[bytes, ...]


def read_responses(path: Path) -> list[Response]:
    """Read the file that `--responses` wrote, in the order in which the calls ended.

    Raises:
        ValueError: The file is cut.
    """
    content, at, responses = path.read_bytes(), 0, list[Response]()

    def take(size: int) -> bytes:
        nonlocal at
        if at + size > len(content):
            raise ValueError(f"{path}: ends within response {len(responses)}")
        at += size
        return content[at - size : at]

    while at < len(content):
        call, caller, message, code, num_parts = struct.unpack("<IIIiI", take(20))
        parts = tuple(take(struct.unpack("<I", take(4))[0]) for _ in range(num_parts))
        responses.append(Response(call, caller, message, code, parts))
    return responses


if __name__ == "__main__":
    print(build())
