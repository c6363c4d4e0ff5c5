"""What sessions can do beyond stepping, with both clients, and what they survive."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from carryover.client import errors
from carryover.client.aio import AsyncClient
from carryover.client.sync import Client
from carryover.client.types import ModelRef, StateInfo
from service.engine.interface import Generate, OpenSession, Priority, StepSession
from tests.carryover.client.calling import blocking
from tests.carryover.client.relay import relayed
from tests.service.rpc.world import World, wait_until

T = TypeVar("T")
ALICE = "alice-0123456789abcdef"


def only(world: World) -> int:
    """What the engine calls its one session."""
    (session,) = world.engines["lm"].sessions
    return session


async def test_an_asyncio_session_forks_marks_rewinds_and_moves(world: World) -> None:
    async with AsyncClient(world.address, caller=ALICE) as client, client.session("lm", session_id="a") as session:
        await session.step(token_ids=[4, 5])
        assert await session.mark(7) == 2
        async with await session.fork("b") as other:
            assert (other.id, other.num_steps, other.model) == ("b", 2, ModelRef("lm", 3))
            assert (await other.step(token_ids=[1]))[0].token_ids == (10 % 3,)
            assert (await session.step(token_ids=[2]))[0].token_ids == (11 % 3,)
            assert [(i.id, i.num_steps, i.marks) for i in await client.sessions()] == [("a", 3, (7,)), ("b", 3, ())]
        assert await session.rewind(7) == session.num_steps == 2
        state = await session.export()
        async with client.session("lm", state=state) as copy, client.session("lm", state={"total": [9.0]}) as given:
            assert (copy.num_steps, given.num_steps) == (2, 0)
            assert await copy.step(token_ids=[1]) == await given.step(token_ids=[1])
            assert await session.step(token_ids=[1]) == [(await copy.step(token_ids=[0]))[0]]
        with pytest.raises(errors.MarkNotFound):
            await session.rewind(8)
        with pytest.raises(errors.SessionExists):
            await client.session("lm", session_id="a").open()
        with pytest.raises(errors.InvalidArgument, match=r"mark: expected 0 to 4294967295, got -1"):
            await session.mark(-1)
        assert session.over is None


async def test_a_blocking_session_forks_marks_rewinds_and_moves(world: World) -> None:
    def act(client: Client) -> None:
        with client.session("lm", session_id="a", idle_timeout_s=9) as session:
            session.step(token_ids=[4, 5])
            assert session.mark(7) == 2
            with session.fork("b") as other:
                assert other.step(token_ids=[1])[0].token_ids == (10 % 3,)
                assert session.step(token_ids=[2])[0].token_ids == (11 % 3,)
                assert [(i.id, i.num_steps, i.marks) for i in client.sessions()] == [("a", 3, (7,)), ("b", 3, ())]
            assert session.rewind(7) == session.num_steps == 2
            with client.session("lm", state=session.export(), priority="high") as copy:
                assert (copy.num_steps, copy.step(token_ids=[1])[0].token_ids) == (2, (10 % 3,))
            with pytest.raises(errors.MarkNotFound):
                session.rewind(8)
            with pytest.raises(errors.SessionExists):
                client.session("lm", session_id="a")
            assert session.step(token_ids=[1])[0].token_ids == (10 % 3,)

    await blocking(world, act, ALICE)
    opened = [r for r in world.engines["lm"].submitted if isinstance(r, OpenSession)]
    assert (opened[0].idle_timeout_s, opened[1].priority) == (9, Priority.HIGH)
    assert world.engines["lm"].sessions == {}


async def test_a_detached_session_is_gone_on_with_by_the_same_caller_alone(world: World) -> None:
    async with AsyncClient(world.address, caller=ALICE) as client:
        async with client.session("lm") as session:
            await session.step(token_ids=[4])
            name = session.detach()
        assert session.over is not None
    assert len(world.engines["lm"].sessions) == 1

    def act(again: Client) -> None:
        with again.resume(name) as resumed:
            assert (resumed.id, resumed.num_steps, resumed.model) == (name, 1, ModelRef("lm", 3))
            assert resumed.step(token_ids=[5])[0].token_ids == (9 % 3,)
            resumed.detach()

    await blocking(world, act, ALICE)
    async with AsyncClient(world.address) as stranger:
        assert stranger.caller != AsyncClient(world.address).caller
        assert await stranger.sessions() == []
        with pytest.raises(errors.SessionNotFound):
            await stranger.resume(name)
    async with AsyncClient(world.address, caller=ALICE) as client, await client.resume(name) as resumed:
        assert resumed.num_steps == 2
    assert world.engines["lm"].sessions == {}


async def test_a_session_that_was_taken_over_is_told_of_its_end_and_closed(world: World) -> None:
    async with AsyncClient(world.address, caller=ALICE) as client:
        first = client.session("lm", session_id="a")
        await first.open()
        second = await client.resume("a")
        first.detach()
        world.engines["lm"].end(only(world), expired=True)
        await wait_until(lambda: second.expired)

    def act(client: Client) -> None:
        first = client.session("lm", session_id="b")
        client.resume("b")
        first.detach()

    await blocking(world, act, ALICE)
    assert world.engines["lm"].sessions == {}


async def test_a_resumed_session_steps_after_what_was_on_its_way() -> None:
    async with relayed() as (world, relay), AsyncClient(world.address, caller=ALICE) as second:
        engine, loop = world.engines["lm"], asyncio.get_running_loop()
        async with AsyncClient(f"127.0.0.1:{relay.port}", caller=ALICE) as first:
            session = first.session("lm", session_id="a")
            await session.open()
            engine.hold = True
            stepping = asyncio.create_task(session.step(token_ids=[4]))
            await wait_until(lambda: engine.held)
            (pending,) = engine.held
            engine.hold = False
            resumed = await second.resume("a")
            assert resumed.num_steps == 0
            engine.release(pending)  # one step, taken once the list was made
            assert (await resumed.step(token_ids=[5]))[0].token_ids == (9 % 3,)
            assert (resumed.num_steps, engine.sessions[only(world)].total) == (2, 9)
            await stepping
            session.detach()

            def act(client: Client) -> None:
                again = client.resume("a")
                asyncio.run_coroutine_threadsafe(step(), loop).result()
                assert again.num_steps == 2
                assert again.step(token_ids=[1])[0].token_ids == (15 % 3,)
                assert again.num_steps == 4

            async def step() -> None:
                await resumed.step(token_ids=[5])

            await blocking(world, act, ALICE)
            resumed.detach()


async def test_what_is_still_open_when_a_client_closes_is_closed(world: World) -> None:
    async with AsyncClient(world.address) as client:
        await client.session("lm").open()
    assert world.engines["lm"].sessions == {}
    await blocking(world, lambda c: c.session("lm"), ALICE)
    assert world.engines["lm"].sessions == {}


async def test_an_expired_session_knows_it_before_it_is_used(world: World) -> None:
    async with AsyncClient(world.address) as client, client.session("lm") as session:
        world.engines["lm"].end(only(world), expired=True)
        await wait_until(lambda: session.expired)
        with pytest.raises(errors.SessionExpired, match="600 s without a command"):
            await session.step(token_ids=[1])

    def act(own: Client) -> None:
        with own.session("lm") as blocked:
            world.engines["lm"].sessions.pop(only(world))
            with pytest.raises(errors.SessionNotFound):
                blocked.step(token_ids=[1])
            assert blocked.over is not None

    await blocking(world, act, ALICE)


async def test_what_is_asked_for_together_goes_as_one_message(world: World) -> None:
    async with AsyncClient(world.address) as client:
        sessions = [client.session("lm") for _ in range(20)]
        await asyncio.gather(*(session.open() for session in sessions))
        connection = client._line._connection
        assert connection is not None
        write, sizes = connection._call.write, []

        async def counted(message: object) -> None:
            sizes.append(len(message.commands))  # type: ignore[attr-defined]
            await write(message)

        connection._call.write = counted
        await asyncio.gather(*(session.step(token_ids=[4]) for session in sessions))
        assert sizes == [20]


async def test_a_step_whose_connection_breaks_is_sent_again_and_taken_once() -> None:
    async with relayed() as (world, relay), AsyncClient(f"127.0.0.1:{relay.port}", timeout_s=10) as client:
        engine = world.engines["lm"]
        async with client.session("lm") as session:
            await session.step(token_ids=[4])
            engine.hold = True
            stepping = asyncio.create_task(session.step(token_ids=[5], num_top=2))
            await wait_until(lambda: engine.held)
            await relay.cut()
            await wait_until(lambda: sum(isinstance(r, StepSession) for r in engine.submitted) == 3)  # sent again
            engine.release_all()  # the first is taken, the second gets its answer
            engine.hold = False
            (output,) = await stepping
            assert (output.token_ids, session.num_steps) == ((9 % 3, 10 % 3), 2)
            assert engine.sessions[only(world)].total == 9
            assert (await session.step(token_ids=[1]))[0].token_ids == (10 % 3,)
        assert relay.num_connections > 1
        await wait_until(lambda: not engine.sessions)


async def test_a_blocking_step_whose_connection_breaks_is_sent_again_and_taken_once() -> None:
    async with relayed() as (world, relay):
        engine = world.engines["lm"]
        loop = asyncio.get_running_loop()

        def act() -> None:
            with Client(f"127.0.0.1:{relay.port}", timeout_s=10) as client, client.session("lm") as session:
                session.step(token_ids=[4])
                asyncio.run_coroutine_threadsafe(relay.cut(), loop).result()
                assert session.step(token_ids=[5])[0].token_ids == (9 % 3,)
                assert session.num_steps == 2

        await asyncio.to_thread(act)
        assert relay.num_connections > 1
        assert engine.sessions == {}


async def test_an_opening_that_is_not_waited_for_is_closed_again(world: World) -> None:
    engine = world.engines["lm"]
    async with AsyncClient(world.address) as client, client.session("lm") as source:

        async def abandoned(opening: Awaitable[object], *, cancel: bool = False) -> None:
            known = set(engine.sessions)
            engine.hold = True
            task = asyncio.ensure_future(opening)
            await wait_until(lambda: engine.held)
            if cancel:
                task.cancel()
            with pytest.raises(asyncio.CancelledError if cancel else errors.DeadlineExceeded):
                await task
            engine.hold = False
            engine.release_all()
            await client.sessions()  # what was sent before it is done
            await wait_until(lambda: set(engine.sessions) == known)

        await abandoned(client.session("lm", timeout_s=0.5).open())
        await abandoned(client.session("lm").open(), cancel=True)
        await abandoned(source.fork(timeout_s=0.5))
        await abandoned(source.fork(), cancel=True)
        engine.hold = True
        with pytest.raises(errors.DeadlineExceeded):
            await client.session("lm", session_id="mine", timeout_s=0.5).open()
        engine.hold = False
        engine.release_all()
        assert [info.id for info in await client.sessions()] == [source.id, "mine"]  # it may have been an older one


async def test_a_blocking_opening_that_is_not_waited_for_is_closed_again(world: World) -> None:
    engine = world.engines["lm"]
    loop = asyncio.get_running_loop()

    async def let_go() -> None:
        engine.hold = False
        engine.release_all()
        await wait_until(lambda: len(engine.sessions) == 1)

    def act(client: Client) -> None:
        with client.session("lm"):
            engine.hold = True
            with pytest.raises(errors.DeadlineExceeded):
                client.session("lm", timeout_s=0.5)
            asyncio.run_coroutine_threadsafe(let_go(), loop).result()
            assert len(client.sessions()) == 1

    await blocking(world, act, ALICE)


async def test_a_fork_whose_connection_breaks_leaves_its_source_as_it_was() -> None:
    async with relayed() as (world, relay), AsyncClient(f"127.0.0.1:{relay.port}", timeout_s=10) as client:
        engine = world.engines["lm"]
        async with client.session("lm") as session:
            await session.step(token_ids=[4])
            engine.hold = True
            forking = asyncio.create_task(session.fork())
            await wait_until(lambda: engine.held)
            await relay.cut()
            with pytest.raises(errors.Unavailable):
                await forking
            # Unavailable where gRPC has not noticed yet that the connection is gone.
            with pytest.raises((errors.DeadlineExceeded, errors.Unavailable)):
                await session.fork(timeout_s=0.05)
            assert session.over is None
            engine.hold = False
            engine.release_all()
            assert (await session.step(token_ids=[5]))[0].token_ids == (9 % 3,)


@pytest.mark.parametrize("caller", ["x" * 15, "x" * 129, "é" * 20, "tab\t" * 5])
async def test_a_caller_that_the_server_would_refuse_is_refused_here(caller: str) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(ValueError, match="caller: expected 16 to 128 printable ASCII"):
            make("127.0.0.1:1", caller=caller)


async def test_priorities_and_penalties_are_passed_on(world: World) -> None:
    async with AsyncClient(world.address) as client:
        await client.tag("tagger", [["the"]], priority="low")
        stream = client.generate(
            "lm", repetition_penalty=2, frequency_penalty=0.5, presence_penalty=-1, priority="high"
        )
        await stream.finish()
        with pytest.raises(errors.InvalidArgument, match="priority: expected one of low, normal, high"):
            await client.score("lm", ["the"], priority="urgent")  # type: ignore[arg-type]
        with pytest.raises(errors.InvalidArgument, match="repetition_penalty"):
            await client.generate("lm", repetition_penalty=0.5).finish()
        model = await client.model("lm")
    assert world.engines["tagger"].submitted[0].priority is Priority.LOW  # type: ignore[union-attr]
    (work,) = world.engines["lm"].submitted
    assert isinstance(work, Generate)
    sampling = work.sampling
    assert (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty) == (2, 0.5, -1)
    assert work.priority is Priority.HIGH
    assert (model.states, model.batch_invariant, model.limits.max_marks) == ((StateInfo("total", (1,)),), True, 8)
    assert (model.load.host_state_bytes, model.load.requests_refused) == (640, 4)
