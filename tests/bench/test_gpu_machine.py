"""What the GPU script says of the CUDA runtime: of the one that the service takes."""

from types import SimpleNamespace
from typing import Any

import pytest

from bench.gpu import machine
from service.runtime.errors import RunnerError


@pytest.mark.parametrize(("failed", "expected"), [(0, "13.1"), (35, None)])
def test_the_version_is_that_of_the_runtime_of_the_service(
    failed: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(version: Any) -> int:
        version._obj.value = 13010
        return failed

    monkeypatch.setattr(machine, "load_libraries", lambda: "")
    monkeypatch.setattr(machine, "load_runtime", lambda: SimpleNamespace(cudaRuntimeGetVersion=tell))
    assert machine.libraries(on_card=True)["CUDA runtime"] == expected


def test_no_runtime_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise RunnerError("none")

    monkeypatch.setattr(machine, "load_libraries", lambda: "")
    monkeypatch.setattr(machine, "load_runtime", fail)
    assert machine.libraries(on_card=True)["CUDA runtime"] is None
