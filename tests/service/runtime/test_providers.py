"""How sessions are opened on CUDA, which is made up: no test has a GPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from service.runtime import providers
from service.runtime.errors import ProviderUnavailable
from service.runtime.providers import CPU, CUDA, cuda_options, open_session
from tests.service import tiny_models as tiny


class FakeSession:
    """What ONNX Runtime gives for CUDA; notes how it was asked."""

    asked: "list[FakeSession]"
    started: Sequence[str] = (CUDA, CPU)
    failure: Exception | None = None

    def __init__(self, path: Path, options: ort.SessionOptions, *, providers: Any, enable_fallback: int) -> None:
        self.options, self.providers, self.enable_fallback = options, providers, enable_fallback
        self.asked.append(self)
        if self.failure is not None:
            raise self.failure

    def get_providers(self) -> list[str]:
        return list(self.started)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    """What sessions are, with CUDA that works."""

    class Session(FakeSession):
        asked: "list[FakeSession]" = []  # noqa: RUF012

    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(providers, "load_libraries", lambda: "")
    monkeypatch.setattr(providers, "what_is_missing", lambda: None)
    return Session


def test_a_session_on_cuda_does_what_was_asked_or_fails(session: type[FakeSession]) -> None:
    opened = open_session(Path("step.onnx"), CUDA, 3, device_id=2, cuda_graphs=True, tf32=True)
    [asked] = session.asked
    assert opened is asked
    assert asked.providers == [(CUDA, cuda_options(2, cuda_graphs=True, tf32=True)), CPU]
    assert asked.enable_fallback == 0  # else a run that fails is run again on the CPU, in silence
    assert asked.options.intra_op_num_threads == 3
    assert asked.options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


def test_products_are_exact_and_nothing_captured_unless_asked_for(session: type[FakeSession]) -> None:
    open_session(Path("step.onnx"), CUDA, 1)
    [asked] = session.asked
    assert asked.providers[0][1] == {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "0",
        "use_tf32": "0",
    }
    assert cuda_options(2, cuda_graphs=False, tf32=False)["device_id"] == "2"
    assert cuda_options(0, cuda_graphs=False, tf32=True)["use_tf32"] == "1"
    assert cuda_options(0, cuda_graphs=True, tf32=False)["enable_cuda_graph"] == "1"


@pytest.mark.parametrize("failure", [None, RuntimeError("CUDA failure 35: CUDA driver version is insufficient")])
def test_what_is_missing_on_the_machine_is_said_however_it_shows(
    session: type[FakeSession], failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.started, session.failure = (CPU,), failure
    monkeypatch.setattr(providers, "what_is_missing", lambda: "no NVIDIA driver (of that name)")
    with pytest.raises(ProviderUnavailable) as error:
        open_session(Path("step.onnx"), CUDA, 1)
    expected = "provider cuda: expected a working CUDAExecutionProvider, got no NVIDIA driver (of that name)"
    assert str(error.value) == expected


def test_where_nothing_is_missing_it_is_said_what_started_instead(session: type[FakeSession]) -> None:
    session.started = (CPU,)
    with pytest.raises(ProviderUnavailable) as error:
        open_session(Path("step.onnx"), CUDA, 1)
    assert str(error.value) == (
        "provider cuda: expected a working CUDAExecutionProvider, got an ONNX Runtime that only starts "
        "CPUExecutionProvider"
    )


def test_where_nothing_is_missing_the_error_of_a_file_stays_what_it_is(session: type[FakeSession]) -> None:
    session.failure = ValueError("no model")
    with pytest.raises(ValueError, match=r"^no model$"):
        open_session(Path("step.onnx"), CUDA, 1)


def test_a_session_on_the_cpu_knows_nothing_of_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> str:
        raise AssertionError("loads the libraries of CUDA")

    monkeypatch.setattr(providers, "load_libraries", forbidden)
    manifest = tiny.write_language_model(tmp_path, tiny.make_table())
    session = open_session(tmp_path / manifest.graphs["step"].file, CPU, 1)
    assert session.get_providers() == [CPU]
