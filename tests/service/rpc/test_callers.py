"""Whose sessions are whose, and what outlives a stream."""

from typing import Any

import grpc
import pytest

from protos.carryover.v1 import carryover_pb2 as pb
from service.bridge import next_id
from service.engine.interface import ForkSession, OpenSession, Priority, StepSession
from service.errors import InvalidInput, Overloaded
from service.rpc.callers import Callers
from service.rpc.outbox import Outbox
from service.settings import Settings
from tests.service.rpc.refusal import refusal
from tests.service.rpc.streams import ALICE, BOB, Stream, gone, message, named, opening, step_of
from tests.service.rpc.world import World, make_model, wait_until


async def test_sessions_of_a_named_caller_outlive_their_stream(world: World) -> None:
    first = Stream(world, ALICE)
    assert (await first.ask(**named("mine"))).opened.session_id == "mine"
    await first.step("mine", 4, 5)
    await gone(world, first)
    second = Stream(world, ALICE)
    assert (await second.step("mine", 1)).num_steps == 3
    closed = (await second.ask(close=pb.CloseSession(session_id="mine"))).closed
    assert closed == pb.SessionClosed(session_id="mine", num_steps=3)
    assert world.engines["lm"].sessions == {}


async def test_half_closing_keeps_them_too_and_two_streams_may_share_one(world: World) -> None:
    one, other = Stream(world, ALICE), Stream(world, ALICE)
    await one.ask(**named("mine"))
    assert (await other.step("mine", 4)).num_steps == 1
    await one.call.done_writing()
    assert await one.call.read() is grpc.aio.EOF
    assert (await other.step("mine", 4)).num_steps == 2


async def test_a_step_in_flight_when_its_stream_breaks_is_taken_and_its_answer_kept(world: World) -> None:
    engine, first = world.engines["lm"], Stream(world, ALICE)
    session = await first.open()
    engine.hold = True
    await first.send(**step_of(session, token_ids=[4, 5], first_step=0, num_top=1))
    await wait_until(lambda: engine.held)
    await gone(world, first)
    assert engine.cancelled == []
    engine.hold = False
    engine.release(next(iter(engine.held)))
    second = Stream(world, ALICE)
    again = (await second.ask(**step_of(session, token_ids=[4, 5], first_step=0, num_top=1))).stepped
    assert (again.replayed, again.num_steps, [list(o.token_ids) for o in again.outputs]) == (True, 2, [[1], [0]])


async def test_another_callers_session_is_answered_exactly_like_one_that_never_was(world: World) -> None:
    alice, bob, anonymous = Stream(world, ALICE), Stream(world, BOB), Stream(world)
    await alice.ask(**named("secret-1"))
    await alice.ask(**named("closed-1"))
    await alice.ask(close=pb.CloseSession(session_id="closed-1"))
    actions = ("step", "close", "fork", "mark", "rewind", "export")
    makers: dict[str, Any] = {
        "step": lambda name: pb.StepSession(session_id=name, token_ids=[1]),
        "close": lambda name: pb.CloseSession(session_id=name),
        "fork": lambda name: pb.ForkSession(session_id=name, new_session_id="x"),
        "mark": lambda name: pb.MarkSession(session_id=name, mark=1),
        "rewind": lambda name: pb.RewindSession(session_id=name, mark=1),
        "export": lambda name: pb.ExportSession(session_id=name),
    }
    for stranger in (bob, anonymous):
        for action in actions:
            hers, never, closed = [
                (await stranger.ask(**{action: makers[action](name)})).SerializeToString()
                for name in ("secret-1", "nobody-1", "closed-1")
            ]
            event = pb.SessionEvent.FromString(hers)
            assert event.error.reason == "SESSION_NOT_FOUND"
            # The numbers of the requests follow each other and take a byte each; the name is the caller's own.
            renamed = never.replace(b"nobody-1", b"secret-1")
            assert renamed[2:] == hers[2:]
            assert closed.replace(b"closed-1", b"secret-1")[2:] == hers[2:]
    assert (await bob.ask(**named("secret-1"))).opened.session_id == "secret-1"  # hers is in nobody's way
    await bob.step("secret-1", 7)
    assert (await alice.step("secret-1", 4)).num_steps == 1


@pytest.mark.parametrize("value", ["x" * 15, "x" * 129, ""])
async def test_a_caller_that_names_itself_badly_is_refused(world: World, value: str) -> None:
    stream = Stream(world, value)
    got = await refusal(stream.call.read())
    assert (got.code, got.field) == (grpc.StatusCode.INVALID_ARGUMENT, "carryover-caller")
    assert "16 to 128 printable ASCII characters" in got.message


@pytest.mark.parametrize(
    "value", ["tab\tin-the-middle-of-it", "caf\u00e9-0123456789abcdef", b"caf\xe9-0123456789abcdef"]
)
def test_what_a_transport_would_let_pass_is_refused_all_the_same(value: str | bytes) -> None:
    with pytest.raises(InvalidInput, match="printable ASCII"):
        Callers().enter([("carryover-caller", value)])


async def test_a_caller_that_names_itself_twice_is_refused(world: World) -> None:
    call: Any = world.stub.Session(metadata=(("carryover-caller", ALICE), ("carryover-caller", BOB)))
    assert (await refusal(call.read())).field == "carryover-caller"


async def test_a_name_is_taken_once_and_free_again_when_its_session_has_ended(world: World) -> None:
    stream = Stream(world, ALICE)
    await stream.ask(**named("a"))
    error = await stream.fails(**named("a"))
    assert (error.reason, error.code) == ("SESSION_EXISTS", grpc.StatusCode.ALREADY_EXISTS.value[0])
    assert error.session_id == "a"
    fork = {"fork": pb.ForkSession(session_id="a", new_session_id="a")}
    assert (await stream.fails(**fork)).reason == "SESSION_EXISTS"
    await stream.ask(close=pb.CloseSession(session_id="a"))
    assert (await stream.fails(**step_of("a", token_ids=[1]))).reason == "SESSION_CLOSED"
    assert (await stream.ask(**named("a"))).opened.session_id == "a"
    assert (await stream.step("a", 1)).num_steps == 1
    assert "at most 128 characters, got 129" in (await stream.fails(**named("x" * 129))).message


async def test_a_made_up_name_is_none_that_the_caller_has_given() -> None:
    model, _ = make_model("lm", "language_model", Settings())
    caller, outbox, last = Callers().enter([]), Outbox(8), next_id()
    for i in range(30):  # the names that the next thirty would get
        caller.add(f"s{last + 31 + i}", "x", model, 1.0, outbox)
    for _ in range(30):
        caller.add("", "x", model, 1.0, outbox)
    assert len(caller.sessions) == 60
    assert all(live.name == name for name, live in caller.sessions.items())


async def test_commands_of_one_message_are_taken_in_order(world: World) -> None:
    stream = Stream(world)
    actions: list[dict[str, Any]] = [
        named("a"),
        step_of("a", token_ids=[4], num_top=1),
        {"mark": pb.MarkSession(session_id="a", mark=3)},
        step_of("a", token_ids=[5], num_top=1),
        {"fork": pb.ForkSession(session_id="a", new_session_id="b")},
        step_of("b", token_ids=[999]),
        {"rewind": pb.RewindSession(session_id="a", mark=3)},
        step_of("b", token_ids=[1], num_top=1),
        {"close": pb.CloseSession(session_id="a")},
        step_of("a", token_ids=[1]),
    ]
    commands = [pb.SessionCommand(request_id=i + 1, **action) for i, action in enumerate(actions)]
    await stream.call.write(pb.SessionRequest(commands=commands))
    events = {event.request_id: event for event in [await stream.read() for _ in commands]}
    assert [events[i + 1].WhichOneof("event") for i in range(len(commands))] == [
        *("opened", "stepped", "marked", "stepped", "opened", "error", "rewound", "stepped", "closed", "error")
    ]
    assert events[3].marked == pb.SessionMarked(session_id="a", mark=3, num_steps=1)
    opened = pb.SessionOpened(session_id="b", model=pb.ModelRef(name="lm", version=3), num_steps=2)
    assert events[5].opened == opened
    assert events[7].rewound == pb.SessionRewound(session_id="a", mark=3, num_steps=1)
    assert (events[8].stepped.num_steps, list(events[8].stepped.outputs[0].token_ids)) == (3, [10 % 3])
    assert events[9].closed.num_steps == 1
    order = list(events)
    for name in ([1, 2, 3, 4, 5, 7, 9, 10], [5, 6, 8]):  # what names a, and what names b
        assert sorted(name, key=order.index) == name


async def test_answers_that_are_ready_together_go_out_together(world: World) -> None:
    stream = Stream(world)
    sessions = [await stream.open() for _ in range(20)]
    engine = world.engines["lm"]
    engine.hold = True
    for session in sessions:
        await stream.send(**step_of(session, token_ids=[1]))
    await wait_until(lambda: len(engine.held) == 20)
    engine.publish([event for request in engine.held.values() for event in engine.events(request)])
    assert [event.stepped.session_id for event in (await stream.call.read()).events] == sessions


async def test_a_refusal_about_a_fork_waits_until_it_has_begun(world: World) -> None:
    stream, engine = Stream(world), world.engines["lm"]
    session = await stream.open()
    engine.hold = True
    fork = await stream.send(fork=pb.ForkSession(session_id=session, new_session_id="b"))
    bad = await stream.send(**step_of("b", token_ids=[999]))
    await wait_until(lambda: engine.held)
    assert (await stream.fails(mark=pb.MarkSession(session_id="nobody"))).reason == "SESSION_NOT_FOUND"
    engine.release(next(iter(engine.held)))
    assert [(await stream.read()).request_id for _ in range(2)] == [fork, bad]


async def test_a_fork_or_an_open_that_fails_leaves_no_session(world: World) -> None:
    stream, engine = Stream(world), world.engines["lm"]
    session = await stream.open()
    for action in ({"fork": pb.ForkSession(session_id=session, new_session_id="b")}, named("b")):
        engine.refusals = [Overloaded("full", 1.0)]
        assert (await stream.fails(**action)).reason == "OVERLOADED"
        engine.hold = True
        sent = await stream.send(**action)
        await wait_until(lambda: engine.held)
        engine.fail(next(iter(engine.held)), Overloaded("full", 1.0))
        engine.hold = False
        assert not (await stream.answer(sent)).error.session_ended
        assert (await stream.fails(**step_of("b", token_ids=[1]))).reason == "SESSION_NOT_FOUND"
    assert (await stream.step(session, 4)).num_steps == 1


async def test_marks_that_are_not_there_are_told_and_end_nothing(world: World) -> None:
    stream = Stream(world)
    session = await stream.open()
    error = await stream.fails(rewind=pb.RewindSession(session_id=session, mark=9))
    assert (error.reason, error.code) == ("MARK_NOT_FOUND", grpc.StatusCode.NOT_FOUND.value[0])
    assert not error.session_ended
    assert (await stream.step(session, 4)).num_steps == 1


async def test_what_an_open_says_reaches_the_engine(world: World) -> None:
    stream, engine = Stream(world, ALICE), world.engines["lm"]
    await stream.ask(**named("a", idle_timeout_s=2.5, priority=pb.PRIORITY_HIGH))
    await stream.ask(open=opening("lm"))
    await stream.ask(fork=pb.ForkSession(session_id="a"))
    given, default, fork = engine.submitted
    assert isinstance(given, OpenSession)
    assert isinstance(default, OpenSession)
    assert isinstance(fork, ForkSession)
    assert (given.idle_timeout_s, given.priority, given.initial, given.num_steps) == (2.5, Priority.HIGH, None, 0)
    assert (default.idle_timeout_s, default.priority) == (600, Priority.NORMAL)
    assert (fork.source, fork.idle_timeout_s) == (given.session, 2.5)
    await stream.step("a", 4, num_top=2)
    step = engine.submitted[-1]
    assert step == StepSession(step.id, given.session, {"tokens": [4]}, 1, 2, None, None)
    for wrong in (0.0, -1.0, 600.5, float("nan")):
        assert "to 600 s" in (await stream.fails(**named("b", idle_timeout_s=wrong))).message
    assert "a known priority" in (await stream.fails(**named("b", priority=9))).message


async def test_request_ids_are_needed(world: World) -> None:
    stream = Stream(world)
    await stream.call.write(message(0, open=opening("lm")))
    error = (await stream.read()).error
    assert (error.reason, "above 0" in error.message) == ("INVALID_INPUT", True)
