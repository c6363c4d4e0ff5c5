"""Settings that an operator can hardly have meant are served, with a warning each."""

from pathlib import Path

import pytest

from service.doubts import doubts
from service.settings import load_settings
from tests.service.bundles import publish_transducer
from tests.service.process import running

NO_CUDA = (
    "CARRYOVER_DEVICES: expected an ONNX Runtime with CUDA for GPU 0, 3, got one with CPUExecutionProvider only: "
    "models are served on the CPU; pip install 'carryover[serve-gpu]' brings it, in a checkout make "
    "RUNTIME=serve-gpu"
)
NOTHING_EVER = (
    "CARRYOVER_MODEL_CONTROL=explicit: expected CARRYOVER_LOAD_MODELS or CARRYOVER_ADMIN_TOKEN_FILE with it, got "
    "neither: no model is loaded, and no call can load one"
)


@pytest.fixture(autouse=True)
def _without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, []),
        ({"devices": "0,3"}, [NO_CUDA]),
        ({"devices": "cpu,cpu"}, []),
        ({"devices": "0", "provider": "cuda"}, []),  # does not start
        ({"model_control": "explicit"}, [NOTHING_EVER]),
        ({"model_control": "explicit", "load_models": "*"}, []),
        ({"model_control": "explicit", "admin_token_file": Path("token")}, []),
        ({"model_control": "poll"}, []),
        ({"model_control": "explicit", "devices": "0,3"}, [NO_CUDA, NOTHING_EVER]),
    ],
)
def test_what_can_hardly_be_meant_is_said(given: dict[str, object], said: list[str]) -> None:
    assert list(doubts(load_settings(None, **given))) == said


def test_gpus_are_not_doubted_where_cuda_is_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    built_in = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: built_in)
    assert list(doubts(load_settings(devices="0,3"))) == []


def test_the_service_says_it_once_and_serves(tmp_path: Path) -> None:
    publish_transducer(tmp_path, "tiny", 1)
    publish_transducer(tmp_path, "other", 1)
    before = "import onnxruntime\nonnxruntime.get_available_providers = lambda: ['CPUExecutionProvider']"
    with running(tmp_path, before, provider="auto", devices="0") as server:
        status, log = server.stop()
    assert status == 0
    said = [
        line.partition(" WARNING service.main: ")[2] for line in log.splitlines() if " WARNING service.main" in line
    ]
    assert said == [NO_CUDA.replace("0, 3", "0")]
