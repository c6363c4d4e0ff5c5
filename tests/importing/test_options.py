"""`--state` and `--example`: every form that is meant, and what is said of all others."""

from pathlib import Path

import numpy as np
import pytest

from importing.errors import ImportRefused
from importing.options import parse_examples, parse_state
from importing.states.pairs import StateOption


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h=hn", StateOption("h", "hn")),
        ("h=hn,axis=1", StateOption("h", "hn", 1)),
        ("h=hn,init=0.5", StateOption("h", "hn", None, 0.5)),
        ("pos=pos_next,init=-3,axis=0", StateOption("pos", "pos_next", 0, -3)),
        ("ever=ever_out,init=true", StateOption("ever", "ever_out", None, 1)),
        ("serving_h:0=out/h:0", StateOption("serving_h:0", "out/h:0")),
    ],
)
def test_a_state(text: str, expected: StateOption) -> None:
    assert parse_state(text) == expected


def test_an_initial_state_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "h.npy", np.arange(3))
    initial = parse_state(f"h=hn,init={tmp_path / 'h.npy'}").initial
    assert isinstance(initial, np.ndarray)
    assert initial.tolist() == [0, 1, 2]


def test_a_file_with_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "h.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ImportRefused, match="plain numbers"):
        parse_state(f"h=hn,init={tmp_path / 'h.npy'}")


WRONG_FORMS = ["", "h", "h=", "=hn", "h=hn,", "h=hn,batch=1"]
WRONG_VALUES = ["axis=-1", "axis=x", "axis=1000", "init=", "init=nothing.npy", "init=weights.bin"]


@pytest.mark.parametrize("text", [*WRONG_FORMS, *[f"h=hn,{value}" for value in WRONG_VALUES]])
def test_any_other_state_is_refused(text: str) -> None:
    with pytest.raises(ImportRefused, match="--state"):
        parse_state(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("sr=16000", ("sr", 16000)), ("gain=0.5", ("gain", 0.5)), ("a=b=2", ("a=b", 2)), ("on=true", ("on", 1))],
)
def test_an_example(text: str, expected: tuple[str, float]) -> None:
    assert parse_examples([text, "other=3"]) == dict([expected, ("other", 3)])


@pytest.mark.parametrize("text", ["", "sr", "sr=", "=1", "sr=fast", "sr=inf", "sr=-inf", "sr=nan", "sr=1e999"])
def test_any_other_example_is_refused(text: str) -> None:
    with pytest.raises(ImportRefused, match="--example: expected NAME=NUMBER"):
        parse_examples([text])


def test_an_example_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ImportRefused, match="expected each name once, got sr twice"):
        parse_examples(["sr=16000", "sr=8000"])
