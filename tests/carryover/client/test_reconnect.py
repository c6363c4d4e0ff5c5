"""A server that goes away and comes back: for how long a session looks for it, and what it says when it gives up."""

import asyncio
from collections.abc import Callable

import pytest

from carryover.client import errors
from carryover.client.aio import AsyncClient
from carryover.client.reconnect import FIRST_PAUSE_S, MOST_PAUSE_S, Reconnect
from carryover.client.sync import Client
from service.engine.interface import StepSession
from tests.carryover.client.relay import Relay, relayed
from tests.service.rpc.world import World, wait_until

GAVE_UP = r"within 0.3 s .* got none, tried (once|\d+ times) in \d+\.\d s: "  # machines may stand still in between
LOSS = errors.Unavailable("nobody there", "UNAVAILABLE", metadata={"a": "b"})


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def pauses(for_s: float, timeout_s: float, chance: Callable[[float, float], float]) -> tuple[list[float], Exception]:
    """The pauses of a command whose every try fails at once, and what it ends with."""
    clock = Clock()
    reconnect, given = Reconnect(for_s, clock.now_s + timeout_s, clock, chance), []
    while True:
        try:
            given.append(reconnect.pause_s(LOSS))
        except errors.CarryoverError as error:
            return given, error
        clock.now_s += given[-1]


def test_pauses_double_up_to_a_bound_and_end_in_time() -> None:
    given, error = pauses(30.0, 60.0, max)
    assert given[:7] == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
    assert set(given[6:]) == {MOST_PAUSE_S}
    assert 30.0 - MOST_PAUSE_S < sum(given) <= 30.0
    assert isinstance(error, errors.Unavailable)
    assert f"within 30 s and the command's own time, got none, tried {len(given)} times in {sum(given):.1f} s" in str(
        error
    )
    assert str(error).endswith("nobody there")
    assert error.metadata["a"] == "b"
    assert error.metadata["reconnect_tries"] == str(len(given))


def test_pauses_differ_by_chance() -> None:
    given, _ = pauses(30.0, 60.0, min)
    assert given[:3] == pytest.approx([FIRST_PAUSE_S / 2, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S])
    first, second = (Reconnect(30.0, 1e12).pause_s(LOSS) for _ in range(2))
    assert first != second


def test_the_deadline_of_a_command_ends_its_tries() -> None:
    given, error = pauses(30.0, 1.0, max)
    assert given == pytest.approx([0.05, 0.1, 0.2, 0.4])
    assert "tried 4 times in 0.8 s" in str(error)


@pytest.mark.parametrize(
    ("for_s", "loss"),
    [
        (0.0, LOSS),
        (30.0, errors.ShuttingDown("over")),
        (30.0, errors.StepMismatch("elsewhere")),
        (30.0, errors.CarryoverError("odd")),
    ],
)
def test_what_is_no_loss_of_the_connection_is_not_waited_out(for_s: float, loss: errors.CarryoverError) -> None:
    with pytest.raises(errors.CarryoverError) as caught:
        Reconnect(for_s, 1e12).pause_s(loss)
    assert caught.value is loss


@pytest.mark.parametrize("reconnect_s", [-1.0, float("nan"), float("inf"), 86401.0])
async def test_a_time_that_is_none_is_refused(reconnect_s: float) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(ValueError, match="reconnect_s: expected 0 to 86400 seconds, got"):
            make("127.0.0.1:1", reconnect_s=reconnect_s)


def steps(world: World) -> int:
    """Step commands that have reached the engine."""
    return sum(isinstance(request, StepSession) for request in world.engines["lm"].submitted)


async def outage(relay: Relay, while_away: Callable[[], bool]) -> None:
    """Take the server away, and let it come back once the caller has noticed."""
    await relay.stop()
    await wait_until(while_away)
    await relay.start()


@pytest.mark.slow
async def test_a_session_goes_on_after_an_outage() -> None:
    async with relayed() as (world, relay), AsyncClient(f"127.0.0.1:{relay.port}") as client:
        async with client.session("lm") as session:
            await session.step(token_ids=[4])
            line, before = client._line, client._line._connection
            coming_back = asyncio.create_task(outage(relay, lambda: line._connection is not before))
            await wait_until(lambda: before is not None and before.end is not None)
            assert (await session.step(token_ids=[5]))[0].token_ids == (9 % 3,)
            await coming_back
            assert (session.num_steps, steps(world)) == (2, 2)
            assert (await session.step(token_ids=[1]))[0].token_ids == (10 % 3,)
        await wait_until(lambda: not world.engines["lm"].sessions)


@pytest.mark.slow
async def test_a_blocking_session_goes_on_after_an_outage_that_took_its_answer() -> None:
    async with relayed() as (world, relay):
        engine, loop = world.engines["lm"], asyncio.get_running_loop()

        async def go_away() -> None:
            """Take the server away before it answers, and let it have taken the step when it is back."""
            await wait_until(lambda: engine.held)
            await relay.stop()
            engine.release_all()
            engine.hold = False
            line = clients[0]._line
            broken = line._connection
            await wait_until(lambda: line._connection is not broken)
            await relay.start()

        clients: list[Client] = []

        def act() -> None:
            with Client(f"127.0.0.1:{relay.port}") as client, client.session("lm") as session:
                clients.append(client)
                session.step(token_ids=[4])
                engine.hold = True
                going = asyncio.run_coroutine_threadsafe(go_away(), loop)
                assert session.step(token_ids=[5])[0].token_ids == (9 % 3,)
                going.result(10)
                assert session.num_steps == 2
                assert session.step(token_ids=[1])[0].token_ids == (10 % 3,)

        await asyncio.to_thread(act)
        await wait_until(lambda: not engine.sessions)


async def test_a_server_that_stays_away_is_given_up_and_its_session_can_be_gone_on_with() -> None:
    async with relayed() as (_, relay):
        address = f"127.0.0.1:{relay.port}"
        async with AsyncClient(address, reconnect_s=0.3) as client, AsyncClient(address, reconnect_s=0.0) as hasty:
            session, other = client.session("lm"), hasty.session("lm")
            await session.open()
            await other.open()
            await relay.stop()
            with pytest.raises(errors.Unavailable, match=GAVE_UP):
                await session.step(token_ids=[4])
            with pytest.raises(errors.Unavailable, match=r"^(?!session: expected a connection)"):
                await other.step(token_ids=[4])
            assert isinstance(session.over, errors.Unavailable)
            await relay.start()

            async def resumed() -> bool:
                try:
                    again = await client.resume(session.id)
                except errors.Unavailable:
                    return False
                assert (await again.step(token_ids=[4]))[0].token_ids == (4 % 3,)
                return True

            async with asyncio.timeout(10):
                while not await resumed():
                    pass


async def test_a_blocking_client_gives_up_too() -> None:
    async with relayed() as (_, relay):
        loop = asyncio.get_running_loop()

        def act() -> None:
            with Client(f"127.0.0.1:{relay.port}", reconnect_s=0.3) as client:
                session = client.session("lm")
                asyncio.run_coroutine_threadsafe(relay.stop(), loop).result(10)
                with pytest.raises(errors.Unavailable, match=GAVE_UP):
                    session.step(token_ids=[4])

        await asyncio.to_thread(act)
