"""A caller that stops reading: bounded, cut off, and nobody else's trouble."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1.carryover_pb2_grpc import CarryoverStub
from service.engine.interface import StepSession
from tests.service.rpc.refusal import refusal_of_writer
from tests.service.rpc.streams import Stream, message, number, opening, step_of
from tests.service.rpc.world import World, serving, wait_until

# gRPC gives a caller that does not read about the first 64 KiB in flight and as much again in the server's buffer.
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
NUM_STEPS = 512  # one answer of so many outputs takes more than 10 KB
MAX_IN_FLIGHT = 8


@asynccontextmanager
async def not_reading(world: World, caller: str | None = None) -> AsyncIterator[Stream]:
    """A stream of a caller who sends a thousand large commands and reads only what opening its session answers."""
    async with grpc.aio.insecure_channel(world.address, SMALL_WINDOW) as channel:
        metadata = None if caller is None else (("carryover-caller", caller),)
        stub: Any = CarryoverStub(channel)
        stream = Stream(world)
        stream.call.cancel()
        stream.call = stub.Session(metadata=metadata)
        session = (await stream.ask(open=opening("lm"))).opened.session_id

        async def send() -> None:
            for request_id in range(2, 1002):
                step = pb.StepSession(session_id=session, token_ids=[4] * NUM_STEPS, num_top=3)
                await stream.call.write(message(request_id, step=step))

        sending = asyncio.create_task(send())
        yield stream
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def read_to_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


def settings(**others: object) -> dict[str, Any]:
    return {"max_input_tokens": NUM_STEPS, "max_requests_in_flight_per_stream": MAX_IN_FLIGHT, **others}


def steps_taken(world: World) -> int:
    return sum(isinstance(request, StepSession) for request in world.engines["lm"].submitted)


async def test_it_is_read_no_further_cut_off_and_its_sessions_end() -> None:
    async with serving(**settings(slow_reader_timeout_s=0.3, drain_timeout_s=0.05)) as world:
        began = time.monotonic()
        async with not_reading(world) as stream:
            await wait_until(lambda: steps_taken(world) >= MAX_IN_FLIGHT)
            await wait_until(lambda: not world.server.in_flight)
            assert time.monotonic() - began > 0.3
            assert steps_taken(world) < 200  # of a thousand: what the buffers took, and what may be in flight
            assert world.engines["lm"].sessions == {}
            got = await refusal_of_writer(read_to_end(stream.call))  # should it ever come back
            if got is not None:
                assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
                assert "expected to be read within 0.3 s" in got.message


async def test_it_slows_nobody_down() -> None:
    async with serving(**settings(drain_timeout_s=0.05)) as world, not_reading(world):
        await wait_until(lambda: steps_taken(world) >= MAX_IN_FLIGHT)
        other = Stream(world)
        session = await other.open()
        for i in range(100):
            assert (await other.step(session, 4)).num_steps == i + 1
        assert world.server.in_flight == 2
        assert steps_taken(world) < 300


async def test_a_caller_with_a_name_keeps_its_sessions_when_it_is_cut_off() -> None:
    name = "a-caller-that-stops-reading"
    async with serving(**settings(slow_reader_timeout_s=0.2, drain_timeout_s=0.05)) as world:
        async with not_reading(world, name):
            await wait_until(lambda: world.server.in_flight)
            await wait_until(lambda: not world.server.in_flight)
        ((session, state),) = world.engines["lm"].sessions.items()
        taken = state.num_steps
        assert taken == NUM_STEPS * steps_taken(world)
        again = Stream(world, name)
        step = step_of(f"s{session}", token_ids=[4] * NUM_STEPS, num_top=3, first_step=taken - NUM_STEPS)
        assert (await again.ask(**step)).stepped.replayed
        assert number(f"s{session}") == session


@pytest.mark.slow
async def test_one_that_reads_slowly_is_not_cut_off() -> None:
    async with (
        serving(**settings(slow_reader_timeout_s=2.0, drain_timeout_s=0.05)) as world,
        not_reading(world) as slow,
    ):
        answered, began = 0, time.monotonic()
        while time.monotonic() - began < 5.0:
            events = (await slow.call.read()).events
            answered += len(events)
            await asyncio.sleep(0.02)  # its pace, not a wait for anything
        assert answered >= 4  # some for each time that its patience would have run out
        assert world.server.in_flight == 1


async def test_the_end_of_the_service_does_not_wait_for_it() -> None:
    async with serving(**settings(drain_timeout_s=0.05)) as world, not_reading(world):
        await wait_until(lambda: steps_taken(world) >= MAX_IN_FLIGHT)
        async with asyncio.timeout(60):
            assert await world.server.stop() is False
