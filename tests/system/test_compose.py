"""The image and docker-compose.yml for real, where there is an engine: see deploy/try-compose."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.system.conftest import ROOT, Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def engine_answers() -> bool:
    """Whether containers can be run here."""
    if shutil.which("docker") is None:
        return False
    info = subprocess.run(["docker", "info"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    compose = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return info.returncode == 0 and (compose.returncode == 0 or shutil.which("docker-compose") is not None)


@pytest.mark.skipif(not engine_answers(), reason="needs a Docker engine and compose")
def test_the_deployment_answers_from_another_container_and_from_the_host_and_stops(spelling: Home) -> None:
    command = [str(ROOT / "deploy/try-compose"), str(spelling.folder / "repository"), "spell", "dog"]
    environment = {**os.environ, "CARRYOVER": f"{sys.executable} -m carryover"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    said = done.stdout.splitlines()
    assert "from another container: D OW G" in said
    assert "from this machine: D OW G" in said
    assert "ready over HTTP: 200" in said
    assert "exit status after SIGTERM: 0" in said
    assert "user: 10001" in said
