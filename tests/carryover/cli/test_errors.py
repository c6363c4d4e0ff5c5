"""What goes wrong is one line on standard error, and the user's mistakes are told from ours."""

import importlib
from pathlib import Path

import pytest

from carryover.cli.errors import USER_ERRORS, CommandError, explain, report
from models.data.errors import DataError
from models.training.errors import Interrupted
from service.settings import SettingsError


@pytest.mark.parametrize("name", sorted(USER_ERRORS))
def test_every_name_of_the_table_is_an_exception_where_it_is_defined(name: str) -> None:
    module, _, qualname = name.rpartition(".")
    cls = getattr(importlib.import_module(module), qualname)
    assert issubclass(cls, Exception)
    assert cls.__module__ == module  # elsewhere it is merely imported, and errors do not go by that name


def test_a_derived_class_is_a_users_error_too() -> None:
    class Special(CommandError):
        pass

    assert explain(Special("expected a, got b")) == "expected a, got b"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("malformed", expected="two fields", got="one"), "malformed, expected two fields, got one"),
        (SettingsError("port: expected a\nhost: expected b"), "port: expected a; host: expected b"),
        (FileNotFoundError(2, "No such file or directory", "runs/x"), "runs/x: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_users_error_is_explained_in_one_line(error: Exception, line: str) -> None:
    assert explain(error) == line


@pytest.mark.parametrize(
    ("module", "extra"), [("torch", "train"), ("onnxruntime", "serve"), ("grpc_health.v1", "serve")]
)
def test_a_missing_package_names_the_extra_that_brings_it(module: str, extra: str) -> None:
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)
    said = explain(error)
    assert said is not None and f"carryover[{extra}]" in said and module in said


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("y"), ModuleNotFoundError("z", name="models.nonsense")])
def test_anything_else_is_ours(error: Exception) -> None:
    assert explain(error) is None


def test_an_internal_error_is_one_line_that_tells_how_to_see_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CARRYOVER_DEBUG", raising=False)
    assert report(ValueError("first\nsecond")) == 1
    assert capsys.readouterr().err == (
        "carryover: internal error: ValueError: first second (run with CARRYOVER_DEBUG=1 for the traceback)\n"
    )


def test_the_traceback_is_there_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRYOVER_DEBUG", "1")
    try:
        raise ValueError("deep")
    except ValueError as error:
        assert report(error) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and said.endswith("carryover: internal error: ValueError: deep\n")


def test_interrupted_training_has_a_status_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(Interrupted("SIGINT", 7, Path("runs/x"))) == 130
    assert "step 7" in capsys.readouterr().err
