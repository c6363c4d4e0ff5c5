"""The client with grpcio, protobuf and the standard library, and nothing else."""

import asyncio
import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.service.rpc.world import serving

ROOT = Path(__file__).resolve().parents[3]
CALLS = """
import sys
sys.path[:0] = sys.argv[2:]
from carryover.client.sync import Client
import carryover.client.aio
with Client(sys.argv[1], timeout_s=20) as client:
    assert client.is_serving(wait=True)
    assert client.transduce("g2p", "abc").finish().text == "the cat sat"
    with client.session("lm") as session:
        assert session.step(["the"])[0].tokens == ("<unk>",)
    try:
        client.transduce("g2p", "").finish()
    except Exception as error:
        assert error.reason == "INVALID_INPUT" and error.metadata["got"] == "''", error
import google.protobuf
print("called with protobuf", google.protobuf.__version__)
own = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print("modules:", *sorted(name for name in own if not name.startswith("__")))
"""


def only(folder: Path, *distributions: str) -> Path:
    """A folder that has the files of these installed distributions (as links), and no others."""
    site = Path(sysconfig.get_path("purelib"))
    for name in distributions:
        for file in importlib.metadata.files(name) or ():
            source = site / file
            if ".." in file.parts or not source.is_file() or file.suffix == ".pyc":
                continue
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).symlink_to(source)
    for package in ("carryover", "protos"):
        (folder / package).symlink_to(ROOT / package)
    return folder


async def call_from(*paths: Path) -> list[str]:
    """Run CALLS in an interpreter that sees the standard library and these folders alone; returns its lines."""
    async with serving() as world:
        command = [sys.executable, "-I", "-S", "-c", CALLS, world.address, *map(str, paths)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
async def test_the_client_needs_grpcio_and_protobuf_alone(tmp_path: Path) -> None:
    lines = await call_from(only(tmp_path, "grpcio", "protobuf", "typing_extensions"))
    # grpcio's compiled part makes two modules up.
    modules = {name for name in lines[-1].removeprefix("modules: ").split() if "cython" not in name}
    assert modules <= {"carryover", "protos", "grpc", "google", "typing_extensions"}, modules
    assert {"carryover", "protos", "grpc", "google"} <= modules


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("major", [6, 7])
async def test_the_generated_code_runs_on_protobuf(tmp_path: Path, major: int) -> None:
    wanted = f"protobuf>={major}.33,<{major + 1}" if major == 6 else f"protobuf>={major},<{major + 1}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(tmp_path / "protobuf"),
        wanted,
    ]
    installed = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120)
    if installed.returncode:
        pytest.skip(f"{wanted} cannot be installed here")
    folder = only(tmp_path / "rest", "grpcio", "typing_extensions")
    lines = await call_from(tmp_path / "protobuf", folder)
    assert lines[0].startswith(f"called with protobuf {major}.")
