"""Models that were trained here, through the protocol: the same answers as from the typed API, bit for bit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from bench.untrained import publish_untrained
from carryover.client.sync import Client
from export.manifest import DecodingDefaults
from models.config import EncoderDecoderConfig, LanguageModelConfig, TaggerConfig
from models.symbols import SPECIALS
from tests.system.oip.conftest import DOORS
from tests.system.oip.doors import Door, Refusal
from tests.system.oip.server import Server, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

WORDS = [*SPECIALS, *(f"w{i}" for i in range(30))]
SENTENCE = ["w3", "w17", "unheard", "w0", "w3"]


def publish(repository: Path) -> None:
    """Write one small model of each kind, with random weights."""
    decoding = DecodingDefaults(top_k=8, max_beam_size=4, max_tokens=8)
    tagging: dict[str, list[str]] = {
        "words": WORDS, "characters": [*SPECIALS, *"w0123456789"], "tags": [f"T{i}" for i in range(5)],
    }  # fmt: skip
    kinds: dict[str, Literal["characters", "whitespace", "subword", "none"]] = {
        "words": "none", "characters": "characters", "tags": "none",
    }  # fmt: skip
    language = LanguageModelConfig(cell="lstm", dim=6, hidden=8, layers=2, dropout=0.0)
    publish_untrained(repository, "language", language, {"tokens": WORDS}, {"tokens": "whitespace"}, "fp32", decoding)
    for name, bidirectional in (("forwards", False), ("both-ways", True)):
        tagger = TaggerConfig(
            word_dim=6, character_dim=3, character_hidden=4, hidden=8, layers=1, dropout=0.0, cell="gru",
            bidirectional=bidirectional, crf=bidirectional,
        )  # fmt: skip
        publish_untrained(repository, name, tagger, tagging, kinds, "fp32", DecodingDefaults(top_k=3))
    transducer = EncoderDecoderConfig(source_dim=6, target_dim=6, hidden=8, attention_dim=6, dropout=0.0, cell="lstm")
    publish_untrained(
        repository, "transducer", transducer, {"source": WORDS, "target": WORDS},
        {"source": "whitespace", "target": "whitespace"}, "fp32", decoding,
    )  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("trained") / "repository"
    publish(folder)
    with running(folder) as served:
        yield served


@pytest.fixture(params=["grpc", "stream", "http"])
def door(request: pytest.FixtureRequest, server: Server) -> Iterator[Door]:
    opened = DOORS[request.param](server)
    yield opened
    opened.close()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.grpc) as opened:
        yield opened


def texts(words: list[str]) -> npt.NDArray[np.object_]:
    """One row of texts."""
    return np.array([[word.encode() for word in words]], np.object_)


def test_a_language_model_is_stepped_by_ids(door: Door, client: Client) -> None:
    ids = [2, 5, 9, 30, 9, 11]
    with client.session("language") as session:
        expected = session.step(token_ids=ids, num_top=8)
    tokens, log_probs = [], []
    for first, last in ((0, 1), (1, 4), (4, 6)):  # requests of one step and of several
        answer = door.infer(
            "language",
            {"tokens": np.array([ids[first:last]], np.int64)},
            sequence_id=7,
            sequence_start=first == 0,
            sequence_end=last == 6,
        )
        tokens += answer.outputs["top_tokens"][0].tolist()
        log_probs += answer.outputs["top_log_probs"][0].tolist()
    assert tokens == [list(step.token_ids) for step in expected]
    assert log_probs == [list(step.log_probs) for step in expected]


def test_the_state_of_a_language_model_may_be_asked_for_and_brought(door: Door) -> None:
    states = door_states(door)
    assert states
    first = door.infer(
        "language",
        {"tokens": np.array([[2, 5]], np.int64)},
        [*states.values(), "top_tokens"],
        sequence_id=8,
        sequence_start=True,
    )
    brought = {given: first.outputs[told] for given, told in states.items()}
    step = {"tokens": np.array([[9]], np.int64)}
    on = door.infer("language", step, sequence_id=8, sequence_end=True)
    anew = door.infer("language", {**step, **brought}, sequence_id=9, sequence_start=True, sequence_end=True)
    for name, array in on.outputs.items():
        np.testing.assert_array_equal(anew.outputs[name], array)


def door_states(door: Door) -> dict[str, str]:
    """By the input that brings it, the output that tells a state."""
    config = door.client.get_model_config("language")
    if isinstance(config, dict):
        return {state["input_name"]: state["output_name"] for state in config["sequence_batching"]["state"]}
    return {state.input_name: state.output_name for state in config.config.sequence_batching.state}


@pytest.mark.parametrize("ids", [[-1], [len(WORDS)], [2**62], []])
def test_ids_that_no_word_has_are_refused(door: Door, ids: list[int]) -> None:
    with pytest.raises(Refusal, match="tokens"):
        door.infer("language", {"tokens": np.array([ids], np.int64)}, sequence_id=10, sequence_start=True)
    with pytest.raises(Refusal, match="must specify the START flag"):
        door.infer("language", {"tokens": np.array([[2]], np.int64)}, sequence_id=10)


def test_a_tagger_that_goes_forwards_is_stepped_by_words(door: Door, client: Client) -> None:
    with client.session("forwards") as session:
        expected = session.step(SENTENCE, num_top=3)
    tags, log_probs = [], []
    for i, word in enumerate(SENTENCE):
        answer = door.infer(
            "forwards",
            {"words": texts([word])},
            sequence_id=11,
            sequence_start=i == 0,
            sequence_end=i == len(SENTENCE) - 1,
        )
        tags += [[bytes(tag).decode() for tag in row] for row in answer.outputs["top_tags"][0]]
        log_probs += answer.outputs["top_log_probs"][0].tolist()
    assert tags == [list(step.tokens) for step in expected]
    assert log_probs == [list(step.log_probs) for step in expected]


def test_a_tagger_that_needs_the_whole_sentence_tags_it(door: Door, client: Client) -> None:
    (expected,) = client.tag("both-ways", [SENTENCE])
    answer = door.infer("both-ways", {"words": texts(SENTENCE)})
    assert [bytes(tag).decode() for tag in answer.outputs["tags"][0]] == list(expected.tags)


def test_a_transducer_gives_its_best_target(door: Door, client: Client) -> None:
    source = "w3 w17 w0"
    with client.transduce("transducer", source) as stream:
        for _ in stream:
            pass
        best = stream.result.best
    answer = door.infer("transducer", {"source": np.array([source.encode()], np.object_)})
    assert bytes(answer.outputs["target"][0]).decode() == best.text
    assert answer.outputs["log_prob"].tolist() == [np.float32(best.log_prob)]


def test_all_of_them_describe_themselves(door: Door) -> None:
    for model in ("language", "forwards", "both-ways", "transducer"):
        assert door.client.is_model_ready(model)
        assert door.client.get_model_metadata(model)
        assert door.client.get_model_config(model)
    assert door.client.get_inference_statistics()
