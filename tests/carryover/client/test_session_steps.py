"""A session of either client: its steps carry state, and it is over when it can be trusted no more."""

import asyncio
import threading

import pytest

from carryover.client import errors
from carryover.client.aio import AsyncClient
from carryover.client.sync import Client
from carryover.client.types import ModelRef, StepOutput
from service.engine.interface import StepSession
from service.errors import InternalFailure, Overloaded
from tests.carryover.client.calling import blocking, wait_here
from tests.service.rpc.world import serving, wait_until

ONE_SESSION = 3  # threads while one is open: grpcio's that sends, ours that reads, grpcio's of the channel
SUMS = [StepOutput((1,), (-1.0,), ("<unk>",)), StepOutput((0,), (0.0,), ("<pad>",))]  # of 4, then 4 + 5


async def test_an_asyncio_session_carries_state() -> None:
    async with serving() as world, AsyncClient(world.address) as client:
        async with client.session("lm") as session, client.session("lm", version=3) as other:
            assert session.model == ModelRef("lm", 3)
            assert await session.step(["the", "cat"]) == SUMS
            (ids,) = await other.step(token_ids=[6], num_top=3)
            assert (ids.token_ids, ids.tokens) == ((0, 1, 2), ())
            assert [o.token_ids for o in await session.step(token_ids=[2, 2], num_top=0)] == [(), ()]
            with pytest.raises(errors.InvalidArgument, match=r"token_ids\[0\]: expected 0 to 11, got 99"):
                await session.step(token_ids=[99])
            assert session.num_steps == 4
            assert await session.close() == await session.close() == 4
            with pytest.raises(errors.SessionClosed):
                await session.step(["the"])
        await wait_until(lambda: not world.engines["lm"].sessions)


async def test_a_blocking_session_carries_state() -> None:
    def act(client: Client) -> None:
        assert client.is_serving()  # grpcio's own threads have started
        before = threading.active_count()
        with client.session("lm") as session, client.session("lm") as other:
            assert session.id != other.id
            assert session.step(["the", "cat"]) == SUMS
            with pytest.raises(errors.InvalidArgument):
                session.step(token_ids=[-(2**40)])
            assert [o.token_ids for o in session.step(token_ids=[2, 2], num_top=0)] == [(), ()]
            assert session.close() == session.close() == session.num_steps == 4
            wait_here(lambda: threading.active_count() <= before + ONE_SESSION)
            with pytest.raises(errors.SessionClosed):
                session.step(["the"])

    async with serving() as world:
        await blocking(world, act)
        await wait_until(lambda: not world.engines["lm"].sessions)


async def test_outputs_come_as_text_where_wanted() -> None:
    async with serving() as world, AsyncClient(world.address) as client:
        async with client.session("lm") as session:
            assert (await session.step(token_ids=[4], with_tokens=True))[0].tokens == ("<unk>",)
            assert (await session.step(["the"], with_tokens=False))[0].tokens == ()

        def act(blocked: Client) -> None:
            with blocked.session("lm") as own:
                assert own.step(token_ids=[4], with_tokens=True)[0].tokens == ("<unk>",)
                assert own.step(["the"], with_tokens=False)[0].tokens == ()

        await blocking(world, act)


async def test_sessions_always_say_where_their_steps_belong() -> None:
    async with serving() as world, AsyncClient(world.address) as client:
        async with client.session("lm") as session:
            await session.step(["the", "cat"])
            session.num_steps = 7
            with pytest.raises(errors.StepMismatch, match="got 7") as caught:
                await session.step(["the"])
            assert caught.value.metadata == {"field": "step.first_step", "expected": "2", "got": "7"}
            session.num_steps = 2
            await session.step(["the"])

        def act(blocked: Client) -> None:
            with blocked.session("lm") as own:
                own.num_steps = 7
                with pytest.raises(errors.StepMismatch, match="expected 0"):
                    own.step(["the"])
                own.num_steps = 0
                own.step(["the"])

        await blocking(world, act)


async def test_a_session_that_the_server_ended_is_over() -> None:
    async with serving() as world, AsyncClient(world.address) as client:
        engine = world.engines["lm"]

        async def break_the_next_step() -> None:
            engine.hold = True
            await wait_until(lambda: engine.held)
            engine.hold = False
            (step,) = engine.held.values()
            assert isinstance(step, StepSession)
            engine.end(step.session, expired=False)
            engine.fail(step.id, InternalFailure("a bug"))

        async with client.session("lm") as session:
            breaking = asyncio.create_task(break_the_next_step())
            for _ in range(2):  # the second one is not even sent
                with pytest.raises(errors.InternalError, match="the session has ended"):
                    await session.step(["the"])
            await breaking
        asked = threading.Event()

        def act(blocked: Client) -> None:
            with blocked.session("lm") as own:
                engine.hold = True
                asked.set()
                for _ in range(2):
                    with pytest.raises(errors.InternalError, match="the session has ended"):
                        own.step(["the"])

        acting = asyncio.create_task(blocking(world, act))
        await wait_until(asked.is_set)
        await break_the_next_step()
        await acting
        assert not engine.sessions


async def test_an_interrupted_message_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def act(client: Client) -> None:
        with client.session("lm") as session:
            ask = session._line.ask

            def interrupted(*args: object, **kwargs: object) -> None:
                raise KeyboardInterrupt

            monkeypatch.setattr(session._line, "ask", interrupted)
            with pytest.raises(KeyboardInterrupt):
                session.step(["the"])
            monkeypatch.setattr(session._line, "ask", ask)
            with pytest.raises(errors.CarryoverError, match="got an interrupted one"):
                session.step(["cat"])  # whose answer might be that of the first

    async with serving() as world:
        await blocking(world, act)
        await wait_until(lambda: not world.engines["lm"].sessions)


async def test_an_asyncio_session_that_was_not_opened_says_so() -> None:
    async with serving() as world, AsyncClient(world.address) as client:
        session = client.session("lm")
        with pytest.raises(errors.CarryoverError, match="was not opened"):
            await session.step(["the"])
        with pytest.raises(errors.CarryoverError, match="was not opened"):
            await session.close()
        for name in ("id", "model"):
            with pytest.raises(errors.CarryoverError, match="was not opened"):
                getattr(session, name)
        async with session:
            assert session.id
            with pytest.raises(errors.CarryoverError, match="a second time"):
                await session.open()


async def test_a_session_that_cannot_be_opened_says_why() -> None:
    async with serving() as world, AsyncClient(world.address) as client:
        with pytest.raises(errors.ModelNotFound, match="got 'nope'"):
            async with client.session("nope"):
                pass
        world.engines["lm"].refusals = [Overloaded("all 8 slots are taken", 0.5)] * 2
        with pytest.raises(errors.Overloaded, match="all 8 slots") as caught:
            async with client.session("lm"):
                pass
        assert caught.value.retry_after_s == 0.5

        def act(blocked: Client) -> None:
            with pytest.raises(errors.Overloaded):
                blocked.session("lm")

        await blocking(world, act)


async def test_an_error_inside_the_block_is_the_one_that_is_seen_and_ends_the_session() -> None:
    async with serving() as world, AsyncClient(world.address) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.session("lm"):
                raise ZeroDivisionError
        await wait_until(lambda: not world.engines["lm"].sessions)

        def act(blocked: Client) -> None:
            before = threading.active_count()
            with pytest.raises(ZeroDivisionError), blocked.session("lm"):
                raise ZeroDivisionError
            # While the client lives on: the session's end must not depend on the connection's.
            wait_here(lambda: not world.engines["lm"].sessions and threading.active_count() <= before)

        await blocking(world, act)


async def test_a_step_that_runs_into_its_timeout_ends_the_session() -> None:
    async with serving() as world, AsyncClient(world.address) as client:
        engine = world.engines["lm"]
        session = client.session("lm")
        await session.open()
        engine.hold = True
        with pytest.raises(errors.DeadlineExceeded, match=r"within 0\.05 s"):
            await session.step(["the"], timeout_s=0.05)
        with pytest.raises(errors.DeadlineExceeded):
            await session.step(["the"])
        engine.hold = False
        engine.release_all()

        def act(blocked: Client) -> None:
            with blocked.session("lm") as own:
                engine.hold = True
                with pytest.raises(errors.DeadlineExceeded, match=r"within 0\.05 s"):
                    own.step(["the"], timeout_s=0.05)
                with pytest.raises(errors.DeadlineExceeded):
                    own.step(["the"])
                engine.hold = False

        await blocking(world, act)
        engine.release_all()
        await wait_until(lambda: not engine.sessions)
