"""How sessions end by themselves, who is told, and what is remembered of it."""

import gc
import tracemalloc
import weakref

import pytest

from protos.carryover.v1 import carryover_pb2 as pb
from service.errors import SessionClosed, SessionExpired, SessionNotFound
from service.rpc.callers import MAX_REMEMBERED, Callers, End
from service.rpc.outbox import Outbox
from service.rpc.pending import Pending
from service.rpc.session_answers import stepped
from service.settings import Settings
from tests.service.rpc.streams import ALICE, BOB, Stream, gone, named, number, step_of
from tests.service.rpc.world import World, make_model, wait_until


async def test_an_expiry_is_told_on_the_stream_where_the_session_was_last_spoken_of(world: World) -> None:
    engine, one, other = world.engines["lm"], Stream(world, ALICE), Stream(world, ALICE)
    await one.ask(**named("a"))
    await one.ask(**named("b", idle_timeout_s=5))
    await other.step("a", 4)
    first, second = engine.sessions
    engine.end(second, expired=True)
    engine.end(first, expired=True)
    assert (await one.read()).expired == pb.SessionExpired(session_id="b", num_steps=0, idle_timeout_s=5)
    assert (await other.read()).expired.session_id == "a"
    assert (await one.fails(**step_of("a", token_ids=[1]))).reason == "SESSION_EXPIRED"
    assert (await Stream(world, BOB).fails(**step_of("a", token_ids=[1]))).reason == "SESSION_NOT_FOUND"


async def test_an_expiry_while_the_caller_is_away_is_known_when_it_comes_back(world: World) -> None:
    engine, stream = world.engines["lm"], Stream(world, ALICE)
    session = await stream.open()
    await gone(world, stream)
    engine.end(number(session), expired=True)
    assert (await Stream(world, ALICE).fails(**step_of(session, token_ids=[1]))).reason == "SESSION_EXPIRED"


async def test_a_session_that_breaks_behind_a_close_is_told_to_have_ended(world: World) -> None:
    engine, stream = world.engines["lm"], Stream(world)
    session = await stream.open()
    engine.hold = True
    step = await stream.send(**step_of(session, token_ids=[4]))
    close = await stream.send(close=pb.CloseSession(session_id=session))
    await wait_until(lambda: len(engine.held) == 2)
    first, second = engine.held
    engine.end(number(session), expired=False)
    engine.fail(first, SessionNotFound("x"))
    engine.fail(second, SessionNotFound("x"))
    for request_id in (step, close):
        assert (await stream.answer(request_id)).error.session_ended


async def test_how_sessions_ended_is_remembered_of_so_many() -> None:
    model, _ = make_model("lm", "language_model", Settings())
    everybody = Callers()
    caller = everybody.enter([("carryover-caller", ALICE)])
    outbox = Outbox(8)
    for i in range(MAX_REMEMBERED + 5):
        caller.forget(caller.add(f"n{i}", "x", model, 1.0, outbox), End.CLOSED)
    assert len(everybody.ended) == MAX_REMEMBERED
    with pytest.raises(SessionNotFound):
        caller.find("n4", "x")
    with pytest.raises(SessionClosed):
        caller.find("n5", "x")


async def test_how_a_session_ended_keeps_nothing_of_its_model() -> None:
    model, _ = make_model("lm", "language_model", Settings())
    caller = Callers().enter([("carryover-caller", ALICE)])
    live = caller.add("a", "x", model, 1.0, Outbox(8))
    answered_last = Pending(live.outbox, 1, live, stepped)
    caller.forget(live, End.EXPIRED)
    model.bridge.unwatch_session(live.id)
    kept, session = weakref.ref(model), weakref.ref(live)
    del model, live
    assert caller.named("a") is session()  # whose answer is on its way
    assert session() is not None
    del answered_last
    assert caller.named("a") is session() is None
    gc.collect()
    assert kept() is None
    with pytest.raises(SessionExpired, match="'a', which ended after 1 s"):
        caller.find("a", "x")


async def test_callers_who_have_nothing_are_forgotten() -> None:
    model, _ = make_model("lm", "language_model", Settings())
    everybody = Callers()
    for i in range(100):
        caller = everybody.enter([("carryover-caller", f"{i:016}")])
        live = caller.add("a", "x", model, 1.0, Outbox(8))
        everybody.leave(caller)
        assert len(everybody._named) == 1
        caller.forget(live, End.EXPIRED)
        assert not everybody._named


@pytest.mark.slow
async def test_an_open_session_costs_the_front_end_some_hundred_bytes() -> None:
    model, _ = make_model("lm", "language_model", Settings())
    caller, outbox, count = Callers().enter([("carryover-caller", ALICE)]), Outbox(8), 100_000
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(count):
        caller.add("", "x", model, 600.0, outbox)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(caller.sessions) == count
    assert (after - before) / count < 320, (after - before) / count


async def test_sessions_of_a_version_whose_time_is_up_end_behind_what_is_pending_and_say_why(world: World) -> None:
    engine, stream = world.engines["lm"], Stream(world, ALICE)
    await stream.ask(**named("mine"))
    await stream.ask(**named("other"))
    engine.hold = True
    pending = await stream.send(**step_of("mine", token_ids=[4, 5]))
    await wait_until(lambda: engine.held)
    assert world.models.by_name["lm"].bridge.end_sessions() == 2
    engine.hold = False
    engine.release_all()
    assert (await stream.answer(pending)).stepped.num_steps == 2
    for name in ("mine", "other"):
        late = await stream.send(**step_of(name, token_ids=[4]))
        error = (await stream.answer(late)).error
        assert error.reason == "SESSION_NOT_FOUND"
        assert error.message.endswith(
            f"got {name!r}, which ended with its version of the model: that is served no more"
        )
    assert engine.sessions == {}
