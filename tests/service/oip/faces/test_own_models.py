"""Taggers, language models and encoder-decoders as the protocol's clients see them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from export.manifest import StateSpec, Task
from service.engine.interface import Decode, RunSequence, StepSession
from service.models import Models
from service.oip.core import Core
from service.oip.errors import OipError
from service.oip.messages import InferRequest, RequestedOutput, Tensor
from service.settings import Settings
from tests.service.oip.world import FakeControl, outputs_of
from tests.service.rpc.fake_engine import NUM_TAGS, VOCABULARY_SIZE, FakeEngine
from tests.service.rpc.world import make_model

TOP_K = 3  # of the manifests there


def serve(task: Task, **options: Any) -> tuple[Core, FakeEngine]:
    settings = Settings(max_input_tokens=8, max_word_characters=10, max_sentence_characters=40)
    model, engine = make_model("m", task, settings, **options)
    states = (
        StateSpec(name="total", dtype="float32", shape=(1,), sequence_input="initial", sequence_output="final"),
        StateSpec(name="unnamed", dtype="float32", shape=(1,)),
    )
    models = Models([replace(model, manifest=model.manifest.model_copy(update={"states": states}))])
    return Core(models, FakeControl(models), version="1", sequence_idle_timeout_s=1), engine


def ask(*inputs: Tensor, outputs: tuple[str, ...] = (), **parameters: Any) -> InferRequest:
    return InferRequest("m", "", "", inputs, tuple(map(RequestedOutput, outputs)), parameters)


def tokens(*ids: int) -> Tensor:
    return Tensor("tokens", "INT64", np.array([ids], np.int64))


def texts(name: str, *values: bytes | str, rows: bool = True) -> Tensor:
    array = np.array([value.encode() if isinstance(value, str) else value for value in values], np.object_)
    return Tensor(name, "BYTES", array[None] if rows else array)


def expected_step(totals: list[int]) -> list[list[list[int]]]:
    return [[[(total + i) % NUM_TAGS for i in range(TOP_K)] for total in totals]]


async def test_a_language_model_is_a_sequence_of_ids() -> None:
    core, engine = serve("language_model")
    first = await core.begin(ask(tokens(4, 5), sequence_id=1, sequence_start=True))
    best = expected_step([4, 9])
    log_probs = [[[-float(token) for token in row] for row in best[0]]]  # as the fake engine makes them
    assert outputs_of(first) == {"top_tokens": best, "top_log_probs": log_probs}
    assert [output.datatype for output in first.outputs] == ["INT64", "FP32"]
    assert [output.array.dtype for output in first.outputs] == [np.int64, np.float32]
    second = await core.begin(ask(tokens(6), outputs=("top_tokens", "final"), sequence_id=1, sequence_end=True))
    assert outputs_of(second) == {"top_tokens": expected_step([15]), "final": [[15.0]]}
    assert engine.sessions == {}


async def test_a_sequence_of_ids_may_start_from_a_state() -> None:
    core, _ = serve("language_model")
    state = Tensor("initial", "FP32", np.array([[100]], np.float32))
    answer = await core.begin(ask(tokens(4), state, sequence_id=1, sequence_start=True))
    assert outputs_of(answer)["top_tokens"] == expected_step([104])


async def test_states_alone_need_no_best_outputs() -> None:
    core, engine = serve("language_model")
    answer = await core.begin(ask(tokens(4, 5), outputs=("final",), sequence_id=1, sequence_start=True))
    assert outputs_of(answer) == {"final": [[9.0]]}
    (step,) = [request for request in engine.submitted if isinstance(request, StepSession)]
    assert step.num_top == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (tokens(), "input 'tokens' must have 1 to 8 ids, got 0"),
        (tokens(*[4] * 9), "input 'tokens' must have 1 to 8 ids, got 9"),
        (tokens(4, VOCABULARY_SIZE), f"input 'tokens' must have ids of 0 to {VOCABULARY_SIZE - 1}"),
        (tokens(4, -1), f"input 'tokens' must have ids of 0 to {VOCABULARY_SIZE - 1}"),
        (
            Tensor("tokens", "INT64", np.array([[[4]]])),
            "unexpected shape for input 'tokens' for model 'm'. Expected [-1,-1], got [1,1,1].",
        ),
    ],
)
async def test_ids_that_are_none_are_refused(given: Tensor, message: str) -> None:
    core, engine = serve("language_model")
    with pytest.raises(OipError) as caught:
        core.begin(ask(given, sequence_id=1, sequence_start=True))
    assert (caught.value.code, caught.value.message) == ("invalid_argument", message)
    assert engine.submitted == []


async def test_a_tagger_that_can_be_stepped_is_a_sequence_of_words() -> None:
    core, engine = serve("tagger")
    answer = await core.begin(ask(texts("words", "the", "cat"), sequence_id="s", sequence_start=True))
    (step,) = [request for request in engine.submitted if isinstance(request, StepSession)]
    assert step.inputs["words"] == [4, 5]
    assert step.inputs["word_lengths"] == [3, 3]
    outputs = outputs_of(answer)
    names = [b"DET", b"NOUN", b"VERB"]
    assert outputs["top_tags"] == [[[names[i] for i in row] for row in expected_step([4, 9])[0]]]
    assert np.array(outputs["top_log_probs"]).shape == (1, 2, TOP_K)


async def test_a_tagger_that_reads_whole_sentences_gives_a_tag_a_word() -> None:
    core, engine = serve("tagger", graphs=("sequence",))
    answer = await core.begin(ask(texts("words", "the", "cat", "sat")))
    assert outputs_of(answer) == {"tags": [[b"NOUN", b"VERB", b"DET"]]}
    (request,) = engine.submitted
    assert isinstance(request, RunSequence)
    assert request.length == 3


async def test_the_tags_are_those_of_the_best_path_where_there_is_one() -> None:
    core, _ = serve("tagger", graphs=("sequence",), decode_tags=lambda emissions: [0] * len(emissions))
    answer = await core.begin(ask(texts("words", "the", "cat")))
    assert outputs_of(answer) == {"tags": [[b"DET", b"DET"]]}


async def test_an_encoder_decoder_turns_a_text_into_another() -> None:
    core, engine = serve("encoder_decoder")
    answer = await core.begin(ask(texts("source", "abc", rows=False)))
    (request,) = engine.submitted
    assert isinstance(request, Decode)
    assert (request.source, request.beam_size, request.num_best, request.max_tokens) == ((4, 5, 6), 2, 1, 20)
    assert outputs_of(answer) == {"target": [b"the cat sat"], "log_prob": [-1.0]}


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("encoder_decoder", texts("source", b"\xff", rows=False), "input 'source' must have texts in UTF-8"),
        ("encoder_decoder", texts("source", "", rows=False), "source: expected a text of at least one token, got ''"),
        (
            "encoder_decoder",
            texts("source", "a", "b", rows=False),
            "inference request batch-size must be <= 1 for 'm'",
        ),
        ("tagger", texts("words", b"\xff"), "input 'words' must have texts in UTF-8"),
        ("tagger", texts("words"), "words: expected at least one word, got none"),
        ("tagger", texts("words", " "), "words[0]: expected a word, got ' '"),
    ],
)
async def test_a_text_that_is_none_is_refused(task: Task, given: Tensor, message: str) -> None:
    core, engine = serve(task, graphs=("sequence",) if task == "tagger" else None)
    with pytest.raises(OipError) as caught:
        core.begin(ask(given))
    assert (caught.value.code, caught.value.message) == ("invalid_argument", message)
    assert engine.submitted == []


async def test_what_they_take_and_give_is_told() -> None:
    core, _ = serve("language_model")
    metadata = core.model_metadata("m")
    assert metadata["inputs"] == [{"name": "tokens", "datatype": "INT64", "shape": [-1, -1]}]
    assert metadata["outputs"] == [
        {"name": "top_tokens", "datatype": "INT64", "shape": [-1, -1, TOP_K]},
        {"name": "top_log_probs", "datatype": "FP32", "shape": [-1, -1, TOP_K]},
    ]
    batching: Any = core.model_config("m")["sequence_batching"]
    assert batching["state"] == [
        {"input_name": "initial", "output_name": "final", "data_type": "TYPE_FP32", "dims": [1]}
    ]
    core, _ = serve("encoder_decoder")
    assert core.model_metadata("m")["inputs"] == [{"name": "source", "datatype": "BYTES", "shape": [-1]}]
    assert core.model_config("m")["max_batch_size"] == 1
