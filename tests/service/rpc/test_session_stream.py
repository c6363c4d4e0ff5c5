"""The stream that sessions go over: how it ends, what is in flight on it, and what the engine refuses."""

from typing import Any

import grpc
import grpc.aio
import pytest

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import CloseSession, OpenSession
from service.errors import InternalFailure, Overloaded
from tests.service.rpc.refusal import refusal
from tests.service.rpc.streams import Stream, number, opening, step_of
from tests.service.rpc.world import World, wait_until


async def test_half_closing_lets_what_was_sent_finish_and_closes_the_sessions(world: World, stream: Stream) -> None:
    session = await stream.open()
    engine = world.engines["lm"]
    engine.hold = True
    sent = await stream.send(**step_of(session, token_ids=[4]))
    await stream.call.done_writing()
    await wait_until(lambda: engine.held)
    engine.hold = False
    engine.release(next(iter(engine.held)))
    assert (await stream.answer(sent)).stepped.num_steps == 1
    assert await stream.call.read() is grpc.aio.EOF
    assert await stream.call.code() is grpc.StatusCode.OK
    assert engine.sessions == {}


async def test_a_caller_that_goes_away_is_cancelled_and_its_sessions_closed(world: World, stream: Stream) -> None:
    engine = world.engines["lm"]
    session = await stream.open()
    await stream.open()
    engine.hold = True
    await stream.send(**step_of(session, token_ids=[4]))
    await stream.send(open=opening("lm"))
    await wait_until(lambda: len(engine.held) == 2)
    running = list(engine.held)
    engine.hold = False
    stream.call.cancel()
    await wait_until(lambda: sum(isinstance(r, CloseSession) for r in engine.submitted) == 3)
    assert engine.cancelled == running
    await wait_until(lambda: world.server.in_flight == 0)


async def test_overload_and_failures_of_the_engine_reach_the_caller(world: World, stream: Stream) -> None:
    session = await stream.open()
    engine = world.engines["lm"]
    engine.refusals = [Overloaded("9 session steps are unanswered", 0.5)]
    error = await stream.fails(**step_of(session, token_ids=[4]))
    assert (error.reason, error.retry_after_s) == ("OVERLOADED", 0.5)
    engine.hold = True
    sent = await stream.send(open=opening("lm"))
    await wait_until(lambda: engine.held)
    ((request_id, request),) = engine.held.items()
    engine.fail(request_id, Overloaded("2 sessions are open", 2.0))
    failed = (await stream.answer(sent)).error
    assert (failed.reason, failed.session_id) == ("OVERLOADED", "")
    assert isinstance(request, OpenSession)
    error = await stream.fails(**step_of(str(request.session), token_ids=[4]))
    assert error.reason == "SESSION_NOT_FOUND"
    sent = await stream.send(**step_of(session, token_ids=[4]))
    await wait_until(lambda: engine.held)
    engine.fail(next(iter(engine.held)), InternalFailure("row 9"))
    error = (await stream.answer(sent)).error
    assert (error.reason, "row 9" in error.message) == ("INTERNAL", False)
    engine.hold = False
    await stream.call.done_writing()
    assert await stream.call.read() is grpc.aio.EOF
    closed = [r.session for r in engine.submitted if isinstance(r, CloseSession)]
    assert closed == [number(session)]  # and not the one that the engine never opened


async def test_an_answer_that_cannot_be_made_is_an_error_not_a_silence(
    world: World, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await stream.open()
    monkeypatch.setattr(world.engines["lm"], "step", lambda *_: "nonsense")
    assert (await stream.fails(**step_of(session, token_ids=[4]))).reason == "INTERNAL"


async def test_an_idle_session_is_told_to_have_ended_and_is_known_to_have(world: World, stream: Stream) -> None:
    session, other = await stream.open(), await stream.open()
    await stream.step(session, 4, 5)
    world.engines["lm"].end(number(session), expired=True)
    event = await stream.read()
    assert (event.request_id, event.WhichOneof("event")) == (0, "expired")
    assert event.expired == pb.SessionExpired(session_id=session, num_steps=2, idle_timeout_s=600)
    error = await stream.fails(**step_of(session, token_ids=[1]))
    assert (error.reason, error.code) == ("SESSION_EXPIRED", grpc.StatusCode.NOT_FOUND.value[0])
    assert "600 s without a command" in error.message
    assert (await stream.step(other, 4)).num_steps == 1


async def test_a_command_that_crosses_with_the_end_of_its_session_is_told_of_it(world: World, stream: Stream) -> None:
    session = await stream.open()
    engine = world.engines["lm"]
    engine.hold = True
    sent = await stream.send(**step_of(session, token_ids=[4]))
    await wait_until(lambda: engine.held)
    engine.end(number(session), expired=True)
    engine.release(next(iter(engine.held)))  # to find no session
    assert (await stream.read()).expired.session_id == session
    error = (await stream.answer(sent)).error
    assert (error.reason, error.session_ended) == ("SESSION_EXPIRED", False)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b""], ids=["not a message", "a message without commands"])
async def test_bytes_that_name_no_command_end_the_stream_and_close_its_sessions(world: World, data: bytes) -> None:
    raw: Any = world.channel.stream_stream("/carryover.v1.Carryover/Session")
    call = raw()
    command = pb.SessionCommand(request_id=1, open=opening("lm"))
    await call.write(pb.SessionRequest(commands=[command]).SerializeToString())
    assert pb.SessionResponse.FromString(await call.read()).events[0].opened.session_id
    await call.write(data)

    got = await refusal(call.read())
    assert got.code == grpc.StatusCode.INVALID_ARGUMENT
    await wait_until(lambda: world.engines["lm"].sessions == {})
