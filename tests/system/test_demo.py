"""The whole road, as `make demo` goes it, on a small lexicon: then again, from what the first time left."""

import re
from pathlib import Path

import pytest

from tests.system.conftest import ROOT, Home, carryover, lay_out

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DEMO = ("demo", "--config", "spell.yaml", "--run", "runs/spell", "--repository", "repository")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A folder in which a demo was run."""
    home = lay_out(tmp_path_factory.mktemp("demo"))
    done = carryover(*DEMO, cwd=home.folder)
    (home.folder / "first.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture(scope="module")
def first(home: Home) -> str:
    """What the first demo printed."""
    return (home.folder / "first.txt").read_text()


def answers(output: str) -> dict[str, str]:
    """Words asked and answers streamed."""
    return dict(re.findall(r"^  (\w+) {2,}([A-Z ]+?) {3}(?:as expected|expected: .*)$", output, re.MULTILINE))


def test_it_shows_data_training_quality_parity_and_answers(first: str) -> None:
    headings = re.findall(r"^(\d)\. (\w+)", first, re.MULTILINE)
    assert headings == [("1", "Data"), ("2", "Training"), ("3", "Quality"), ("4", "Export"), ("5", "Answers")]
    assert re.search(r"^train +320 ", first, re.MULTILINE)
    assert "step 150" in first
    assert "parity: all of" in first
    assert "What to do next" in first


def test_it_answers_ten_words_that_training_never_saw(home: Home, first: str) -> None:
    given = answers(first)
    assert len(given) == 10
    right = sum(home.pronunciations[word] == answer for word, answer in given.items())
    assert right >= 8  # each letter always stands for the same phoneme: a model that learnt anything has them all
    assert f"{right} of 10 as in the lexicon" in first


def test_its_service_was_stopped_and_left_nothing_running(home: Home, first: str) -> None:
    address = re.search(r"the service is at (\S+),", first)
    assert address is not None
    assert carryover("models", "--server", address[1], cwd=home.folder).returncode == 1
    assert "exited with 0" in first


def test_a_second_demo_reuses_the_run_and_the_bundle_without_torch(home: Home, first: str) -> None:
    stand_in = home.folder / "torch.py"  # found before the real one
    stand_in.write_text("raise RuntimeError('torch was imported')\n")
    done = carryover(*DEMO, cwd=home.folder)
    stand_in.unlink()
    assert done.returncode == 0, done.stderr
    assert "reusing runs/spell" in done.stdout
    assert "reusing repository/spell/1" in done.stdout
    assert not (home.folder / "repository/spell/2").exists()
    assert answers(done.stdout) == answers(first)


def test_weights_that_changed_are_exported_again(home: Home) -> None:
    receipt = home.folder / "runs/spell/demo.json"
    kept = receipt.read_text()
    receipt.write_text(re.sub(r'"weights_sha256": "[0-9a-f]{8}', '"weights_sha256": "00000000', kept))
    done = carryover(*DEMO, cwd=home.folder)
    assert done.returncode == 0, done.stderr
    assert (home.folder / "repository/spell/2").is_dir()


def test_another_version_published_since_is_what_answers(home: Home) -> None:
    published = ("export", "runs/spell", "--repository", "repository")
    assert carryover(*published, cwd=home.folder).returncode == 0
    done = carryover(*DEMO, cwd=home.folder)
    assert done.returncode == 0, done.stderr
    assert len(answers(done.stdout)) == 10


def test_a_config_without_a_lexicon_is_one_line(tmp_path: Path) -> None:
    done = carryover("demo", "--config", str(ROOT / "configs/tagger_ewt.yaml"), cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "expected data.format gruut or cmudict, got conllu" in line
