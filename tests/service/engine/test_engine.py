"""Answers of the engine, many at a time, against the oracle that makes them one at a time; and when they go out."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from service.engine.engine import Engine
from service.engine.interface import Cancelled, Decode, Event, Finished, Generate, RunSequence, Sampling
from service.engine.limits import EngineLimits
from service.engine.runs import Plan
from service.engine.schedule import ScheduleLimits
from tests.service import tiny_models as tiny
from tests.service.decoding.test_beam import enumerate_best
from tests.service.engine import oracle
from tests.service.engine.harness import Harness, open_tiny, running
from tests.service.engine.scripted import ScriptedRunner

TABLE = tiny.make_table()


def random_decodes(rng: random.Random, count: int, engine: Harness) -> list[Decode]:
    requests = []
    for _ in range(count):
        source = tuple(rng.randrange(4, 7) for _ in range(rng.randint(1, 30)))
        beam_size = rng.randint(1, 3)
        requests.append(Decode(engine.new_id(), source, beam_size, rng.randint(1, beam_size), 0.6, rng.randint(1, 25)))
    return requests


def test_many_decodes_at_once_answer_as_one_at_a_time(tmp_path: Path) -> None:
    runner = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE))
    with running(runner) as engine:
        requests = random_decodes(random.Random(1), 150, engine)
        for request in requests:
            engine.submit(request)
        for request in requests:
            hypotheses = engine.hypotheses(request.id)
            assert hypotheses == oracle.decode(TABLE, request)
            assert engine.decided(request.id) == list(hypotheses[0].tokens)


@pytest.mark.parametrize("seed", range(3))
def test_cancelling_a_third_of_64_at_random_moments_changes_nobody_elses_answer(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    runner = ScriptedRunner(open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE), num_slots=100))
    with running(runner) as engine:
        requests = random_decodes(rng, 64, engine)
        when = {request.id: rng.randint(1, 40) for request in rng.sample(requests, 21)}

        def cancel_some(call: int, *_: object) -> None:
            for request, moment in when.items():
                if moment == call:
                    engine.engine.cancel(request)

        runner.before = cancel_some
        for request in requests:
            engine.submit(request)
        num_cancelled = 0
        for request in requests:
            end, expected = engine.wait(request.id), oracle.decode(TABLE, request)
            streamed, answer = engine.decided(request.id), list(expected[0].tokens)
            if isinstance(end, Cancelled):
                assert request.id in when
                assert streamed == answer[: len(streamed)]
                num_cancelled += 1
            else:
                assert isinstance(end, Finished)
                assert (end.value, streamed) == (expected, answer)
        assert num_cancelled >= 5  # the others were done by then


def test_a_beam_wide_enough_finds_the_best_of_all_answers(tmp_path: Path) -> None:
    # A memory of 61 zeros in effect (3 * 61 = 0 mod 61), and a state of 0: the model of `enumerate_best`.
    source = (6,) * 10 + (1,)
    assert sum(source) == tiny.MODULUS
    with running(open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE), num_slots=80)) as engine:
        request = engine.submit(Decode(engine.new_id(), source, 70, 4, 0.6, 3))
        expected = enumerate_best(TABLE, 3, 0.6)[:4]
        for got, best in zip(engine.hypotheses(request), expected, strict=True):
            assert (got.tokens, got.finish_reason) == (best.tokens, best.finish_reason)
            assert got.score == pytest.approx(best.score, abs=1e-6)


def test_the_same_seed_gives_the_same_text_alone_and_in_company(tmp_path: Path) -> None:
    rng = random.Random(3)
    with running(open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE))) as engine:
        engine.open(1)
        requests = []
        for _ in range(100):
            prompt = (2, *(rng.randrange(4, 7) for _ in range(rng.randint(0, 5))))
            temperature, top_k, top_p = rng.choice([0.0, 0.7, 3.0]), rng.choice([0, 3]), rng.choice([1.0, 0.8])
            sampling = Sampling(temperature, top_k, top_p, seed=rng.randrange(9))
            requests.append(Generate(engine.new_id(), prompt, sampling, max_tokens=rng.randint(1, 20)))
        for request in requests:
            engine.submit(request)
            engine.step(1, [4])
        for request in requests:
            text, reason = oracle.generate(TABLE, request)
            assert engine.value(request.id) == reason
            assert engine.decided(request.id) == text
        engine.close(1)


def test_sequences_of_all_lengths_come_back_without_their_padding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    limits = EngineLimits(session_slots=0, max_sessions=0, batch=ScheduleLimits(max_rows=8, max_padded_tokens=100))
    with running(open_tiny(tmp_path, tiny.write_tagger(tmp_path, TABLE)), limits) as engine:
        requests = {}
        for _ in range(60):
            length = int(rng.integers(1, 40))
            inputs = {
                "words": rng.integers(0, 9, size=length),
                "characters": rng.integers(0, 9, size=(length, int(rng.integers(1, 6)))),
            }
            request = RunSequence(engine.new_id(), inputs, length, ("emissions", "final_hash"))
            requests[engine.submit(request)] = inputs
        for request_id, inputs in requests.items():
            value = engine.value(request_id)
            assert isinstance(value, dict)
            expected = oracle.emissions(TABLE, inputs["words"].tolist(), inputs["characters"].tolist())
            np.testing.assert_array_equal(value["emissions"], expected)
            assert value["final_hash"].tolist() == [inputs["words"].sum()]


def test_only_wanted_outputs_are_asked_of_the_runtime(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    class Watching(ScriptedRunner):
        def run(self, kind, inputs, outputs, lane=0):  # type: ignore[no-untyped-def]
            asked.append(tuple(outputs))
            return super().run(kind, inputs, outputs, lane)

    with running(Watching(open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE)))) as engine:
        engine.open(1)
        engine.steps(1, [4], num_top=0)
        engine.steps(1, [4], num_top=2)
        for top_k in (0, tiny.TOP_K, tiny.TOP_K + 1):
            sampling = Sampling(1.0, top_k, 1.0, 1)
            engine.value(engine.submit(Generate(engine.new_id(), (2, 4), sampling, 1)))
        engine.close(1)
    top = ("top_log_probs", "top_tokens")
    assert asked == [(), top, (), ("log_probs",), (), top, (), ("log_probs",)]


def test_an_answer_goes_out_before_nothing_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Noting(Harness):
        def publish(self, events: Sequence[Event]) -> None:
            order.append("publish")
            super().publish(events)

    begin = Engine._begin

    def noting(engine: Engine, lane: int) -> Plan | None:
        order.append("plan")
        plan = begin(engine, lane)
        order[-1] += " a run" if plan is not None else ""
        return plan

    monkeypatch.setattr(Engine, "_begin", noting)
    model = open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE))
    with running(model, harness=Noting()) as engine:
        engine.open(1)
        order.clear()
        engine.steps(1, [4])
        assert order[order.index("plan a run") + 1] == "publish"
