"""`carryover serve` and `call` as processes: start, answer, refuse what is broken, stop in order."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from carryover.cli.errors import CommandError
from carryover.cli.local_server import serving
from carryover.client.sync import Client
from tests.system.conftest import ROOT, Home, carryover

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def address(spelling: Home) -> Iterator[str]:
    """A running service with the model `spell` and a bundle that is broken."""
    repository = spelling.folder / "served"
    shutil.copytree(spelling.folder / "repository", repository)
    shutil.copytree(repository / "spell", repository / "broken")  # its manifest still says `spell`
    with serving(repository) as found:
        yield found


def test_call_prints_the_pronunciation(address: str, spelling: Home) -> None:
    word = next(iter(spelling.pronunciations))
    done = carryover("call", "spell", word, "--server", address, cwd=spelling.folder)
    assert (done.stdout, done.stderr) == (spelling.pronunciations[word] + "\n", "")


def test_call_refuses_what_the_server_refuses(address: str, spelling: Home) -> None:
    for arguments, told in ((("nosuch", "x"), "nosuch"), (("spell", "ab", "--beam", "1000"), "beam_size")):
        done = carryover("call", *arguments, "--server", address, cwd=spelling.folder)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert told in line


def test_models_lists_the_served_and_the_refused(address: str, spelling: Home) -> None:
    done = carryover("models", "--server", address, cwd=spelling.folder)
    assert re.search(r"^spell +1 +encoder_decoder +fp32", done.stdout, re.MULTILINE)
    assert re.search(r"^refused: broken 1: ", done.stdout, re.MULTILINE)


def test_the_example_of_the_readme_runs(address: str, spelling: Home) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if "client.transduce(" in block]
    code = block.replace("127.0.0.1:8001", address).replace('"demo"', '"spell"').replace("recurrence", "dog")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    streamed, *hypotheses = done.stdout.splitlines()
    assert streamed == "D OW G"
    assert len(hypotheses) == 3 and hypotheses[0].endswith(" D OW G")


def test_the_service_stops_with_0_on_sigterm_and_answers_nobody_after(spelling: Home) -> None:
    with serving(spelling.folder / "repository") as found, Client(found) as client:
        assert client.is_serving()  # leaving the block raises unless the exit status is 0
    assert carryover("models", "--server", found, cwd=spelling.folder).returncode == 1


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="expected at least one model"), serving(tmp_path):
        pass


def test_an_error_while_it_serves_still_stops_it(spelling: Home) -> None:
    with pytest.raises(ZeroDivisionError), serving(spelling.folder / "repository") as found:
        raise ZeroDivisionError
    assert carryover("models", "--server", found, cwd=spelling.folder).returncode == 1


def test_a_service_that_ended_badly_is_an_error(spelling: Home) -> None:
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    if not children.exists():
        pytest.skip("needs the list of children under /proc")
    before = set(children.read_text().split())
    with (
        pytest.raises(CommandError, match="expected exit status 0 after SIGTERM, got -9"),
        serving(spelling.folder / "repository"),
    ):
        (service,) = set(children.read_text().split()) - before
        os.kill(int(service), signal.SIGKILL)


def test_a_command_that_is_terminated_takes_its_service_along(spelling: Home) -> None:
    # At work until the signal comes: a main thread that is just entering a system call may never see it.
    code = """
from pathlib import Path
from carryover.cli.local_server import serving
from carryover.client.sync import Client
with serving(Path("repository")) as address, Client(address) as client:
    print(address, flush=True)
    while client.is_serving():
        pass
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=spelling.folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = process.stdout.readline().strip()
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert carryover("models", "--server", found, cwd=spelling.folder).returncode == 1


def test_ctrl_c_stops_the_service_in_order(spelling: Home) -> None:
    command = [sys.executable, "-u", "-m", "carryover", "serve", "--repository", "repository", "--port", "0"]
    environment = {**os.environ, "CARRYOVER_HTTP_PORT": "0"}
    process = subprocess.Popen(
        command, cwd=spelling.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("serving on 127.0.0.1:")
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in log
