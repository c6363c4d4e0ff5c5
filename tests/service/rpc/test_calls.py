"""What each call asks of the engine and makes of its answers."""

import math
from dataclasses import replace

import numpy as np
import pytest

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import Decode, Generate, Priority, Request, RunSequence
from service.rpc.score import text_score
from service.text import tagger_arrays
from tests.service.rpc.fake_engine import run_sequence
from tests.service.rpc.refusal import drained
from tests.service.rpc.world import World, lowercased

LM, G2P, TAGGER = (pb.ModelRef(name=name) for name in ("lm", "g2p", "tagger"))


async def test_tag_gives_one_tag_and_its_probability_for_each_word(world: World) -> None:
    sentences = [["the", "cat", "sat"], ["unseen"], ["mat"] * 16]
    request = pb.TagRequest(model=TAGGER, sequences=[pb.TokenSequence(tokens=words) for words in sentences])
    answer = await world.stub.Tag(request)
    assert (answer.model.name, answer.model.version) == ("tagger", 3)
    # Word ids 4, 5, 6 and 1 (unknown), mod 3; the chosen emission is ln 8 against 0 for the two others.
    assert [list(s.tags) for s in answer.sequences] == [["NOUN", "VERB", "DET"], ["NOUN"], ["VERB"] * 16]
    assert all(math.isclose(c, 0.8, rel_tol=1e-6) for s in answer.sequences for c in s.confidences)
    assert [len(s.confidences) for s in answer.sequences] == [3, 1, 16]


async def test_tag_sends_words_and_the_characters_of_each(world: World) -> None:
    await world.stub.Tag(pb.TagRequest(model=TAGGER, sequences=[pb.TokenSequence(tokens=["The", "cab"])]))
    (run,) = world.engines["tagger"].submitted
    assert isinstance(run, RunSequence)
    assert (run.length, run.outputs) == (2, ("emissions",))
    assert run.inputs["words"].tolist() == [1, 1]
    assert run.inputs["characters"].tolist() == [[1, 11, 8], [6, 4, 5]]
    assert run.inputs["word_lengths"].tolist() == [3, 3]
    assert all(array.dtype == np.int64 for array in run.inputs.values())


async def test_words_of_many_lengths_are_padded_and_lower_cased_where_so_configured(world: World) -> None:
    model = lowercased(world.models.by_name["tagger"], "words")
    arrays = tagger_arrays(model, ["The", "a"], "tokens")
    assert arrays["words"].tolist() == [4, 1]
    assert arrays["characters"].tolist() == [[1, 11, 8], [4, 0, 0]]  # the characters keep their case
    assert arrays["word_lengths"].tolist() == [3, 1]


async def test_a_crf_chooses_the_tags_and_the_confidence_stays_the_emission(world: World) -> None:
    model = replace(world.models.by_name["tagger"], decode_tags=lambda emissions: [2] * len(emissions))
    world.models.by_name["tagger"] = model
    answer = await world.stub.Tag(pb.TagRequest(model=TAGGER, sequences=[pb.TokenSequence(tokens=["the", "cat"])]))
    assert list(answer.sequences[0].tags) == ["VERB", "VERB"]
    assert answer.sequences[0].confidences == pytest.approx([0.1, 0.8])


async def test_score_reads_from_the_begin_symbol_and_scores_the_end(world: World) -> None:
    answer = await world.stub.Score(pb.ScoreRequest(model=LM, texts=["the  cat", "zebra"]))
    first, second = answer.scores
    assert list(first.tokens) == ["the", "cat", "</s>"]
    assert list(second.tokens) == ["<unk>", "</s>"]
    run = world.engines["lm"].submitted[0]
    assert isinstance(run, RunSequence)
    assert run.inputs["tokens"].tolist() == [2, 4, 5]
    assert run.inputs["targets"].tolist() == [4, 5, 3]
    expected = run_sequence(run)["target_log_probs"]
    assert list(first.log_probs) == expected.tolist()
    assert first.total_log_prob == pytest.approx(float(expected.sum(dtype=np.float64)), abs=1e-12)
    assert first.perplexity == pytest.approx(math.exp(-first.total_log_prob / 3))


def test_perplexity_of_the_impossible_is_infinite() -> None:
    assert text_score(["<s>"], [-1e9]).perplexity == math.inf


async def test_transduce_streams_tokens_that_join_to_the_best_text(world: World) -> None:
    messages = await drained(world.stub.Transduce(pb.TransduceRequest(model=G2P, source="abc", num_best=2)))
    tokens = [message.token for message in messages[:-1]]
    result = messages[-1].result
    assert [token.token for token in tokens] == ["the", "cat", "sat"]
    assert "".join(token.text for token in tokens) == result.hypotheses[0].text == "the cat sat"
    assert [h.score for h in result.hypotheses] == [-0.5, -1.5]
    assert list(result.hypotheses[1].tokens) == ["the", "cat", "sat"]
    assert result.hypotheses[0].finish_reason == pb.FINISH_REASON_END
    assert (result.model.name, result.model.version) == ("g2p", 3)


async def test_answers_tell_how_much_of_a_text_was_unknown(world: World) -> None:
    for source, unknown in (("abc", 0), ("aéb~é", 3)):
        messages = await drained(world.stub.Transduce(pb.TransduceRequest(model=G2P, source=source)))
        assert messages[-1].result.num_unknown_source_tokens == unknown
    for prompt, unknown in (("", 0), ("the cat", 0), ("the cot the cot", 2)):
        messages = await drained(world.stub.Generate(pb.GenerateRequest(model=LM, prompt=prompt)))
        assert messages[-1].result.num_unknown_prompt_tokens == unknown


async def test_transduce_fills_in_the_defaults_and_passes_what_is_given(world: World) -> None:
    await drained(world.stub.Transduce(pb.TransduceRequest(model=G2P, source="ab")))
    given = pb.TransduceRequest(model=G2P, source="abcd", beam_size=4, num_best=3, length_penalty=0, max_tokens=2)
    messages = await drained(world.stub.Transduce(given, timeout=60))
    assert messages[-1].result.hypotheses[0].finish_reason == pb.FINISH_REASON_LENGTH
    default, chosen = world.engines["g2p"].submitted
    assert isinstance(default, Decode)
    assert isinstance(chosen, Decode)
    assert (default.source, default.beam_size, default.num_best) == ((4, 5), 2, 1)
    assert (default.length_penalty, default.max_tokens, default.deadline_s) == (0.5, 20, None)
    assert (chosen.beam_size, chosen.num_best, chosen.length_penalty, chosen.max_tokens) == (4, 3, 0.0, 2)
    assert chosen.deadline_s is not None


async def test_generate_continues_a_prompt_and_tells_the_seed(world: World) -> None:
    request = pb.GenerateRequest(
        model=LM,
        prompt="the cat",
        max_tokens=3,
        temperature=0,
        top_k=5,
        top_p=0.5,
        seed=2**64 - 1,
        repetition_penalty=1.5,
        frequency_penalty=-0.5,
        presence_penalty=0.25,
    )
    messages = await drained(world.stub.Generate(request))
    result = messages[-1].result
    assert "".join(message.token.text for message in messages[:-1]) == result.text == " dog ran far"
    assert (result.seed, result.num_prompt_tokens, result.num_tokens) == (2**64 - 1, 2, 3)
    assert result.finish_reason == pb.FINISH_REASON_LENGTH
    (work,) = world.engines["lm"].submitted
    assert isinstance(work, Generate)
    assert work.prompt == (2, 4, 5)
    assert (work.sampling.temperature, work.sampling.top_k, work.sampling.top_p) == (0.0, 5, 0.5)
    assert (work.sampling.seed, work.max_tokens) == (2**64 - 1, 3)
    penalties = (work.sampling.repetition_penalty, work.sampling.frequency_penalty, work.sampling.presence_penalty)
    assert penalties == (1.5, -0.5, 0.25)


async def test_generate_draws_a_seed_and_starts_from_nothing(world: World) -> None:
    results = [(await drained(world.stub.Generate(pb.GenerateRequest(model=LM))))[-1].result for _ in range(2)]
    works = [work for work in world.engines["lm"].submitted if isinstance(work, Generate)]
    assert [result.seed for result in results] == [work.sampling.seed for work in works]
    assert results[0].seed != results[1].seed
    assert works[0].prompt == (2,)
    assert (works[0].sampling.temperature, works[0].sampling.top_k, works[0].sampling.top_p) == (1.0, 0, 1.0)
    assert (results[0].num_prompt_tokens, works[0].max_tokens) == (0, 20)
    sampling = works[0].sampling
    assert (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty) == (1, 0, 0)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (pb.PRIORITY_UNSPECIFIED, Priority.NORMAL),
        (pb.PRIORITY_LOW, Priority.LOW),
        (pb.PRIORITY_NORMAL, Priority.NORMAL),
        (pb.PRIORITY_HIGH, Priority.HIGH),
    ],
)
async def test_priorities_reach_the_engine_in_every_call(
    world: World, said: pb.Priority.ValueType, meant: Priority
) -> None:
    await world.stub.Tag(pb.TagRequest(model=TAGGER, sequences=[pb.TokenSequence(tokens=["the"])], priority=said))
    await world.stub.Score(pb.ScoreRequest(model=LM, texts=["the"], priority=said))
    await drained(world.stub.Generate(pb.GenerateRequest(model=LM, priority=said)))
    await drained(world.stub.Transduce(pb.TransduceRequest(model=G2P, source="ab", priority=said)))
    submitted = [request for name in ("tagger", "lm", "g2p") for request in world.engines[name].submitted]
    assert [request.priority for request in submitted if isinstance(request, Request)] == [meant] * 4


async def test_the_catalogue_tells_what_is_served_and_what_was_refused(world: World) -> None:
    listed = await world.stub.ListModels(pb.ListModelsRequest())
    assert [model.ref.name for model in listed.models] == ["bitagger", "g2p", "lm", "tagger"]
    assert [(refused.model.name, refused.reason) for refused in listed.refused] == [
        ("broken", pb.REFUSAL_REASON_GRAPHS)
    ]
    for model in listed.models:
        assert model == await world.stub.GetModel(pb.GetModelRequest(model=model.ref))
    by_name = {model.ref.name: model for model in listed.models}
    assert {name for name, model in by_name.items() if model.supports_sessions} == {"lm", "tagger"}
    g2p, lm = by_name["g2p"], by_name["lm"]
    assert g2p.task == pb.TASK_ENCODER_DECODER
    assert dict(g2p.vocabulary_sizes) == {"source": 12, "target": 12}
    assert (g2p.limits.max_beam_size, g2p.limits.max_sessions, g2p.limits.max_input_tokens) == (4, 0, 16)
    assert (lm.limits.max_beam_size, lm.limits.max_sessions, lm.limits.top_k) == (0, 7, 3)
    assert (lm.limits.max_word_characters, by_name["tagger"].limits.max_word_characters) == (0, 10)
    assert by_name["tagger"].limits.max_sentence_characters == 96
    assert (g2p.limits.max_message_bytes, g2p.limits.session_idle_timeout_s) == (4 * 2**20, 0)
    assert (lm.limits.max_requests_in_flight_per_stream, lm.limits.session_idle_timeout_s) == (1024, 600)
    assert g2p.precision == pb.PRECISION_FP32
    load = pb.ModelLoad(
        waiting=2,
        running=0,
        sessions=0,
        num_slots=10,
        free_slots=8,
        num_memory_rows=9,
        free_memory_rows=7,
        host_state_bytes=640,
        max_host_state_bytes=6400,
        sessions_expired=3,
        requests_refused=4,
    )
    assert list(lm.states) == [pb.StateInfo(name="total", shape=[1])]
    assert (lm.batch_invariant, lm.max_batch_rows) == (True, 0)
    assert (lm.limits.kept_answers, lm.limits.max_marks, g2p.limits.max_marks) == (4, 8, 0)
    assert lm.load == load
    assert (lm.state_bytes, lm.provider, dict(lm.metrics)) == (16, "CPUExecutionProvider", {"dev/accuracy": 0.9})
