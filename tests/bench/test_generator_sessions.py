"""The load generator's sessions, against servers that answer by a rule."""

import asyncio
import json
import signal
from asyncio.subprocess import PIPE
from typing import Any

import pytest

from bench.drive import Result, arguments, drive
from bench.tokens import FIRST_WORD, token
from tests.bench.servers import Sessions, fold, serving

VOCABULARY = 50
pytestmark = pytest.mark.slow


async def run(server: Sessions, **options: object) -> Result:
    """Drive a server for a moment."""
    chosen: dict[str, Any] = {"seconds": 0.3, "warmup": 0.1, "model": "m", "vocabulary": VOCABULARY, "check": 10**6}
    chosen |= {"first_token": FIRST_WORD, "check_steps": 10**6, **options}
    async with serving(server) as address:
        return await asyncio.to_thread(drive, "sessions", 60.0, address=address, **chosen)


def check_answers(result: Result) -> int:
    """Compare every answer with the rule; returns how many there were."""
    for session in result["checked"]:
        state, expected = 0, []
        for given in session["inputs"]:
            state = fold(state, given)
            expected.append(state)
        assert session["answers"] == expected
    return sum(len(session["answers"]) for session in result["checked"])


@pytest.mark.parametrize(
    ("sessions", "streams", "connections", "steps", "coalesce", "cut"),
    [(1, 1, 1, 1, 1, 0), (7, 2, 1, 3, 1, 1), (12, 12, 3, 1, 1, 2), (9, 3, 2, 8, 0, 0), (40, 4, 1, 1, 1, 3)],
)
async def test_every_session_steps_its_own_tokens_in_order(
    sessions: int, streams: int, connections: int, steps: int, coalesce: int, cut: int
) -> None:
    server = Sessions(cut=cut)
    shape = {"sessions": sessions, "streams": streams, "connections": connections, "steps": steps, "coalesce": coalesce}
    result = await run(server, **shape)
    assert check_answers(result) == server.seen["steps"] * steps
    for session in result["checked"]:
        indices = range(len(session["inputs"]))
        assert session["inputs"] == [token(session["session"], step, VOCABULARY) for step in indices]
    phase = result["phases"][0]
    assert phase["units"] == phase["answered"] * steps == phase["latency_ms"]["count"] * steps > 0
    assert phase["units_per_s"] == pytest.approx(phase["units"] / 0.3, rel=1e-3)
    assert server.seen["streams"] == streams and len(server.states) == sessions
    assert result["unanswered"] == 0 and result["failures"] == {}
    stepping = server.commands[-20:]
    assert max(stepping) == (1 if not coalesce or sessions == streams else max(stepping))
    assert 0 < phase["cpu_s"] < 0.5 and phase["cpu_share"] == pytest.approx(phase["cpu_s"] / 0.3, rel=0.05)


async def test_commands_that_are_ready_together_share_a_message() -> None:
    server = Sessions()
    await run(server, sessions=32, streams=2, coalesce=1)
    steps_per_message = server.seen["steps"] / (len(server.commands) - 2)
    assert steps_per_message > 8
    server = Sessions()
    await run(server, sessions=32, streams=2, coalesce=0)
    assert set(server.commands[2:]) == {1}, "after the two messages that open the sessions"


async def test_latency_is_at_least_what_the_server_waits() -> None:
    result = await run(Sessions(delay_s=0.02), sessions=4, streams=4)
    latency = result["phases"][0]["latency_ms"]
    assert 20 <= latency["p50"] <= latency["p99"] <= latency["max"] < 2000
    assert result["phases"][0]["answered"] <= 4 * 0.3 / 0.02


async def test_a_refused_step_of_a_closed_loop_is_sent_again_and_counted() -> None:
    server = Sessions(refuse=lambda number: number % 5 == 2, retry_after_s=0.005)
    result = await run(server, sessions=3, streams=1, coalesce=0, warmup=0)
    answered = check_answers(result)
    refused = server.seen["steps"] - answered
    assert 0 < result["phases"][0]["refused"] <= refused
    assert all(
        session["inputs"] == [token(session["session"], step, VOCABULARY) for step in range(len(session["inputs"]))]
        for session in result["checked"]
    ), "nothing is left out and nothing comes twice"
    assert result["phases"][0]["refusal_ms"]["count"] == result["phases"][0]["refused"]


async def test_a_refused_step_of_an_open_loop_is_lost_and_counted_apart() -> None:
    server = Sessions(refuse=lambda number: number % 4 == 0)
    result = await run(server, sessions=8, streams=2, rate=400, warmup=0, seconds=1)
    phase = result["phases"][0]
    answered = phase["latency_ms"]["count"]  # whenever
    assert phase["offered"] == answered + phase["refused"] == server.seen["steps"]
    assert phase["refused"] == server.seen["steps"] // 4 == phase["refusal_ms"]["count"]
    assert check_answers(result) == answered


async def test_arrivals_are_poisson_at_the_rate_of_each_phase() -> None:
    result = await run(Sessions(), sessions=50, streams=2, phases="200:2,1000:1,200:1", warmup=0, bin=0.1)
    offered = [phase["offered"] for phase in result["phases"]]
    for got, expected in zip(offered, (400, 1000, 200), strict=True):
        assert abs(got - expected) < 5 * expected**0.5
    counts = [one["offered"] for one in result["bins"][:20]]
    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / (len(counts) - 1)
    assert 0.3 < variance / mean < 3, "a Poisson process has as much variance as mean; a steady one has none"
    assert len(result["bins"]) == 40 and sum(one["offered"] for one in result["bins"]) == sum(offered)


async def test_arrivals_during_a_stall_wait_from_when_they_were_meant_to_be_sent() -> None:
    """No coordinated omission: a server that stops for half a second makes hundreds of messages late, not one."""
    server = Sessions(stall=100, stall_s=0.5)
    result = await run(server, sessions=500, streams=2, rate=500, seconds=2, warmup=0)
    latency = result["phases"][0]["latency_ms"]
    assert 450 < latency["max"] < 2000
    assert latency["p90"] > 100, "a tenth of two seconds is 200 ms, and 500 ms are late"
    assert latency["p50"] < 300


async def test_an_open_loop_counts_latency_where_a_message_was_meant_and_goodput_where_it_was_answered() -> None:
    server = Sessions(stall=350, stall_s=0.6)  # from 0.7 s on, past the end of the first phase
    result = await run(server, sessions=500, streams=2, phases="500:1,500:1.5", warmup=0, bin=0.5)
    first, second = result["phases"]
    assert first["latency_ms"]["count"] == first["offered"] and second["latency_ms"]["count"] == second["offered"]
    assert first["answered"] < first["offered"] - 50 and second["answered"] > second["offered"]
    counts = [(one["latency_ms"]["count"], one["offered"], one["answered"]) for one in result["bins"]]
    assert all(count == offered for count, offered, _ in counts)
    assert counts[1][2] < counts[1][1] - 50


async def test_messages_above_every_window_arrive_whole() -> None:
    result = await run(Sessions(), sessions=2, streams=2, steps=40_000, seconds=1, check_steps=80_000)
    assert check_answers(result) >= 80_000


async def test_the_fairness_figure_is_that_of_the_slowest_session() -> None:
    server = Sessions(delay_s=0.01, delays_s={2: 0.04})
    result = await run(server, sessions=4, streams=4, seconds=1)
    fairness, latency = result["fairness"], result["phases"][0]["latency_ms"]
    assert 40 <= fairness["worst_mean_ms"] < 400 and fairness["mean_ms"] == pytest.approx(latency["mean"], rel=0.05)
    assert fairness["ratio"] == pytest.approx(fairness["worst_mean_ms"] / fairness["mean_ms"], rel=1e-3)
    assert 1.5 < fairness["ratio"] < 4 and fairness["most"] > 1.5 * fairness["fewest"] > 0


async def test_messages_that_the_generator_sends_late_count_from_when_they_were_meant_to_be_sent() -> None:
    server = Sessions()
    async with serving(server) as address:
        options: dict[str, object] = {"address": address, "sessions": 100, "streams": 2, "model": "m", "vocabulary": 9}
        options |= {"seconds": 2, "warmup": 0, "rate": 200}
        process = await asyncio.create_subprocess_exec(*arguments("sessions", options), stdout=PIPE)
        while server.seen["steps"] < 50:
            await asyncio.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGCONT)
        output, _ = await process.communicate()
    latency = json.loads(output)["phases"][0]["latency_ms"]
    assert latency["max"] > 450 and latency["p90"] > 100, "100 of 400 messages were due in that half second"


async def test_sessions_are_held_until_somebody_says_to_go_on() -> None:
    server = Sessions()
    async with serving(server) as address:
        options: dict[str, object] = {"address": address, "sessions": 700, "streams": 3, "model": "m", "vocabulary": 9}
        options |= {"hold": True, "seconds": 0.1, "warmup": 0, "rate": 50, "opening": 64}
        process = await asyncio.create_subprocess_exec(
            *arguments("sessions", options), stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        assert process.stdin and process.stderr
        assert await process.stderr.readline() == b"holding\n"
        assert len(server.states) == 700 and process.returncode is None
        assert max(server.commands) <= 64, "no more are being opened at a time"
        process.stdin.close()
        output, _ = await process.communicate()
        result = json.loads(output)
    assert process.returncode == 0 and result["sessions"] == 700
    assert 0 < result["stepped"] == min(700, server.seen["steps"]) < 700
