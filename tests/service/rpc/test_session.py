"""One stream, many sessions, many requests in flight."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import StepSession
from service.errors import InternalFailure, Overloaded, SessionNotFound
from tests.service.rpc.streams import Stream, number, opening, step_of
from tests.service.rpc.world import World, serving, wait_until


@asynccontextmanager
async def streaming(**settings: object) -> AsyncIterator[tuple[World, Stream]]:
    async with serving(drain_timeout_s=0.05, **settings) as world:
        yield world, Stream(world)


async def test_a_session_opens_steps_and_closes(world: World, stream: Stream) -> None:
    opened = (await stream.ask(open=opening("lm"))).opened
    assert (opened.model.name, opened.model.version) == ("lm", 3)
    one = await stream.step(opened.session_id, 4, 5, num_top=3)  # sums 4 and 9
    assert [list(o.token_ids) for o in one.outputs] == [[1, 2, 0], [0, 1, 2]]
    assert list(one.outputs[0].log_probs) == [-1, -2, 0]
    assert not any(o.tokens for o in one.outputs)
    two = await stream.step(opened.session_id, 1)
    assert (list(two.outputs[0].token_ids), one.num_steps, two.num_steps) == ([1], 2, 3)
    closed = (await stream.ask(close=pb.CloseSession(session_id=opened.session_id))).closed
    assert (closed.session_id, closed.num_steps) == (opened.session_id, 3)
    assert world.engines["lm"].sessions == {}


async def test_steps_can_be_text_and_special_symbols(world: World, stream: Stream) -> None:
    session = await stream.open()
    step = pb.StepSession(session_id=session, tokens=["<s>", "the", "zebra"], num_top=2, with_tokens=True)
    outputs = (await stream.ask(step=step)).stepped.outputs
    request = world.engines["lm"].submitted[-1]
    assert isinstance(request, StepSession)
    assert request.inputs["tokens"] == [2, 4, 1]
    assert [list(o.tokens) for o in outputs] == [["<s>", "<pad>"], ["<pad>", "<unk>"], ["<unk>", "<s>"]]


async def test_a_tagger_steps_over_words(world: World, stream: Stream) -> None:
    session = await stream.open("tagger")
    step = pb.StepSession(session_id=session, tokens=["the", "bad"], num_top=1, with_tokens=True)
    outputs = (await stream.ask(step=step)).stepped.outputs
    assert [list(o.tokens) for o in outputs] == [["NOUN"], ["VERB"]]  # sums 4 and 5
    request = world.engines["tagger"].submitted[-1]
    assert isinstance(request, StepSession)
    assert (np.shape(request.inputs["characters"]), request.inputs["word_lengths"]) == ((2, 3), [3, 3])


async def test_advancing_without_outputs_gives_empty_ones(stream: Stream) -> None:
    stepped = await stream.step(await stream.open(), 4, 5, 6, num_top=0)
    assert [len(o.token_ids) for o in stepped.outputs] == [0, 0, 0]


async def test_many_sessions_of_two_models_share_a_stream(stream: Stream) -> None:
    sessions = [await stream.open("lm") for _ in range(20)] + [await stream.open("tagger")]
    assert len(set(sessions)) == 21
    sent = []
    for round_ in range(5):
        for i, session in enumerate(sessions[:20]):
            step = pb.StepSession(session_id=session, token_ids=[(i + round_) % 12], num_top=1)
            sent.append((i, round_, await stream.send(step=step)))
    for i, round_, request_id in sent:
        total = sum((i + r) % 12 for r in range(round_ + 1))
        assert (await stream.answer(request_id)).stepped.outputs[0].token_ids == [total % 3]


async def test_sessions_do_not_wait_for_each_other(world: World, stream: Stream) -> None:
    first, second = await stream.open(), await stream.open()
    engine = world.engines["lm"]
    engine.hold = True
    slow = await stream.send(step=pb.StepSession(session_id=first, token_ids=[1]))
    quick = await stream.send(step=pb.StepSession(session_id=second, token_ids=[2]))
    await wait_until(lambda: len(engine.held) == 2)
    slow_id, quick_id = engine.held
    engine.release(quick_id)
    assert (await stream.answer(quick)).stepped.session_id == second
    engine.release(slow_id)
    assert (await stream.answer(slow)).stepped.session_id == first


async def test_a_failed_request_leaves_the_stream_and_its_sessions_open(stream: Stream) -> None:
    session = await stream.open()
    await stream.step(session, 4)
    error = await stream.fails(step=pb.StepSession(session_id=session, token_ids=[3, 12]))
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert (error.reason, error.session_id, error.retry_after_s) == ("INVALID_INPUT", session, 0)
    assert error.message == "step.token_ids[1]: expected 0 to 11, got 12"
    assert list(error.violations) == [pb.FieldViolation(field="step.token_ids[1]", expected="0 to 11", got="12")]
    assert not error.session_ended
    assert (await stream.step(session, 5)).num_steps == 2


@pytest.mark.parametrize(
    ("action", "reason", "says"),
    [
        ({}, "INVALID_INPUT", "one of step, open, close"),
        ({"open": opening("nope")}, "MODEL_NOT_FOUND", "got 'nope'"),
        ({"open": opening("lm", 9)}, "MODEL_NOT_FOUND", "got 9"),
        ({"open": pb.OpenSession()}, "INVALID_INPUT", "open.model.name"),
        ({"open": opening("g2p")}, "INVALID_INPUT", "a model that can be stepped"),
        ({"open": opening("bitagger")}, "INVALID_INPUT", "a model that can be stepped"),
        (step_of("", token_ids=[1]), "INVALID_INPUT", "step.session_id"),
        (step_of("999999", token_ids=[1]), "SESSION_NOT_FOUND", "'999999'"),
        (step_of("x" * 500, token_ids=[1]), "SESSION_NOT_FOUND", "xxx'..."),
        ({"close": pb.CloseSession(session_id="nope")}, "SESSION_NOT_FOUND", "close.session_id"),
        (step_of("LM"), "INVALID_INPUT", "0 tokens and 0 token_ids"),
        (step_of("LM", tokens=["the"], token_ids=[1]), "INVALID_INPUT", "1 tokens and 1 token_ids"),
        (step_of("LM", token_ids=[-1]), "INVALID_INPUT", "step.token_ids[0]: expected 0 to 11, got -1"),
        (step_of("LM", token_ids=[1] * 17), "INVALID_INPUT", "at most 16 inputs, got 17"),
        (step_of("LM", token_ids=[1], num_top=4), "INVALID_INPUT", "step.num_top: expected 0 to 3, got 4"),
        (step_of("LM", token_ids=[1], num_top=-1), "INVALID_INPUT", "step.num_top: expected 0 to 3, got -1"),
        (step_of("LM", tokens=["the", ""]), "INVALID_INPUT", "step.tokens[1]"),
        (step_of("TAGGER", token_ids=[1]), "INVALID_INPUT", "step.token_ids"),
        (step_of("TAGGER", tokens=["x" * 11]), "INVALID_INPUT", "at most 10 characters"),
    ],
)
async def test_bad_requests_are_answered_one_by_one(
    stream: Stream, action: dict[str, Any], reason: str, says: str
) -> None:
    sessions = {"LM": await stream.open("lm"), "TAGGER": await stream.open("tagger")}
    if "step" in action:
        step = pb.StepSession()
        step.CopyFrom(action["step"])
        step.session_id = sessions.get(step.session_id, step.session_id)
        action = {"step": step}
    error = await stream.fails(**action)
    assert (error.reason, says in error.message) == (reason, True), error
    assert (await stream.step(sessions["LM"], 4)).num_steps == 1


async def test_a_closed_session_is_gone_for_good(stream: Stream) -> None:
    session = await stream.open()
    await stream.ask(close=pb.CloseSession(session_id=session))
    for action in ({"close": pb.CloseSession(session_id=session)}, step_of(session, token_ids=[1])):
        error = await stream.fails(**action)
        assert (error.reason, error.code) == ("SESSION_CLOSED", grpc.StatusCode.FAILED_PRECONDITION.value[0])
        assert error.session_id == session


async def test_a_session_belongs_to_its_stream(world: World, stream: Stream) -> None:
    session = await stream.open()
    stranger = Stream(world)
    error = await stranger.fails(**step_of(session, token_ids=[1]))
    assert error.reason == "SESSION_NOT_FOUND"
    assert (await stream.step(session, 4)).num_steps == 1


async def test_a_request_id_may_be_used_again_only_when_answered(world: World, stream: Stream) -> None:
    session = await stream.open()
    world.engines["lm"].hold = True
    engine = world.engines["lm"]
    for _ in range(2):
        await stream.raw(7, **step_of(session, token_ids=[1]))
    for _ in range(2):  # names no session, so it need not wait its turn; and does not free the id of the first
        await stream.raw(7)
        assert "no command in flight has, got 7" in (await stream.answer(7)).error.message
    (held,) = engine.held
    engine.hold = False
    engine.release(held)
    assert (await stream.answer(7)).stepped.num_steps == 1
    assert "no command in flight has, got 7" in (await stream.answer(7)).error.message
    await stream.raw(7, **step_of(session, token_ids=[1]))
    assert (await stream.answer(7)).stepped.num_steps == 2


async def test_answers_of_a_session_keep_the_order_of_its_requests_refusals_included(
    world: World, stream: Stream
) -> None:
    session, other = await stream.open(), await stream.open()
    engine = world.engines["lm"]
    engine.hold = True
    actions: list[dict[str, Any]] = [
        step_of(session, token_ids=[4]),
        step_of(session, token_ids=[999]),
        {"close": pb.CloseSession(session_id=session)},
        step_of(session, token_ids=[5]),  # after the close
    ]
    sent = [await stream.send(**action) for action in actions]
    elsewhere = await stream.send(**step_of(other, token_ids=[999]))
    assert (await stream.read()).request_id == elsewhere  # another session need not wait
    await wait_until(lambda: len(engine.held) == 2)
    engine.release_all()
    answers = [await stream.read() for _ in sent]
    assert [answer.request_id for answer in answers] == sent
    assert [answer.WhichOneof("event") for answer in answers] == ["stepped", "error", "closed", "error"]
    assert (answers[1].error.reason, answers[3].error.reason) == ("INVALID_INPUT", "SESSION_CLOSED")
    await stream.call.done_writing()
    assert await stream.call.read() is grpc.aio.EOF


async def test_refusals_that_wait_their_turn_are_in_flight_and_end_with_the_stream() -> None:
    async with streaming(max_requests_in_flight_per_stream=3) as (world, stream):
        session = await stream.open()
        engine = world.engines["lm"]
        engine.hold = True
        for ids in ([4], [999], [999], [5]):
            await stream.send(**step_of(session, token_ids=ids))
        await wait_until(lambda: engine.held)
        other = Stream(world)
        await other.fails(**step_of("1", token_ids=[1]))  # a round trip: whatever would be read has been
        assert len(engine.held) == 1
        engine.hold = False
        engine.release(next(iter(engine.held)))
        assert [(await stream.read()).WhichOneof("event") for _ in range(4)] == [
            "stepped",
            "error",
            "error",
            "stepped",
        ]


async def test_a_step_out_of_its_place_is_refused_and_changes_nothing(world: World, stream: Stream) -> None:
    session = await stream.open()
    steps: list[dict[str, Any]] = [
        {"token_ids": [4, 4], "first_step": 0},
        {"token_ids": [999], "first_step": 2},  # refused, so those behind it would be one step early
        {"token_ids": [5], "first_step": 3},
        {"token_ids": [6], "first_step": 2},
        {"token_ids": [7]},  # wherever it stands
    ]
    sent = [await stream.send(**step_of(session, **step)) for step in steps]
    answers = [await stream.answer(request_id) for request_id in sent]
    assert [answer.stepped.num_steps for answer in answers] == [2, 0, 0, 3, 4]
    error = answers[2].error
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "STEP_MISMATCH")
    assert "expected 2, the steps that the session has taken by then, got 3" in error.message
    assert list(error.violations) == [pb.FieldViolation(field="step.first_step", expected="2", got="3")]
    assert not error.session_ended
    state = world.engines["lm"].sessions[number(session)]
    assert (state.total, state.num_steps) == (4 + 4 + 6 + 7, 4)


async def test_a_step_that_is_sent_again_gets_the_same_answer_and_says_so(stream: Stream) -> None:
    session = await stream.open()
    step = step_of(session, token_ids=[4, 5], first_step=0, num_top=2)
    first, again = (await stream.ask(**step)).stepped, (await stream.ask(**step)).stepped
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.outputs, again.num_steps) == (first.outputs, 2)


async def test_a_refused_step_does_not_count(world: World, stream: Stream) -> None:
    session = await stream.open()
    world.engines["lm"].refusals = [Overloaded("9 session steps are unanswered", 0.5)]
    assert (await stream.fails(**step_of(session, token_ids=[4], first_step=0))).reason == "OVERLOADED"
    assert (await stream.ask(**step_of(session, token_ids=[4], first_step=0))).stepped.num_steps == 1


async def test_a_step_that_breaks_ends_its_session_and_says_so(world: World, stream: Stream) -> None:
    session = await stream.open()
    engine = world.engines["lm"]
    engine.hold = True
    sent = [await stream.send(**step_of(session, token_ids=[4])) for _ in range(2)]
    await wait_until(lambda: len(engine.held) == 2)
    engine.hold = False
    first, second = engine.held
    engine.end(number(session), expired=False)
    engine.fail(first, InternalFailure("row 9"))
    engine.fail(second, SessionNotFound("gone"))
    errors = [(await stream.answer(request_id)).error for request_id in sent]
    assert [(e.reason, e.session_ended) for e in errors] == [("INTERNAL", True), ("SESSION_NOT_FOUND", True)]
    assert errors[0].message.endswith("the session has ended")
    error = await stream.fails(**step_of(session, token_ids=[4]))
    assert (error.reason, error.session_ended) == ("SESSION_NOT_FOUND", False)
    assert "ended when a step of it failed" in error.message
    assert number(session) not in engine.sessions
    await stream.step(await stream.open(), 4)


async def test_tokens_come_where_they_are_asked_for_whatever_the_input(stream: Stream) -> None:
    session = await stream.open()
    for given in ({"tokens": ["the"]}, {"token_ids": [4]}):
        for wanted in (False, True):
            step = step_of(session, num_top=2, with_tokens=wanted, **given)
            (output,) = (await stream.ask(**step)).stepped.outputs
            assert (len(output.token_ids), len(output.tokens)) == (2, 2 * wanted)


async def test_a_stream_is_read_no_further_with_too_many_in_flight() -> None:
    async with streaming(max_requests_in_flight_per_stream=3) as (world, stream):
        session = await stream.open()
        engine = world.engines["lm"]
        engine.hold = True
        sent = [await stream.send(**step_of(session, token_ids=[1])) for _ in range(10)]
        await wait_until(lambda: len(engine.held) == 3)
        other = Stream(world)
        engine.hold = False
        await other.open()  # a round trip: whatever would be read has been
        assert len(engine.held) == 3
        engine.release_all()
        for i, request_id in enumerate(sent):
            assert (await stream.answer(request_id)).stepped.num_steps == i + 1
