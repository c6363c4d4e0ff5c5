"""A flood is refused by us, with a reason and a time to come back, never cut off by the transport."""

import asyncio
from collections import Counter

import grpc
import grpc.aio
import pytest

from carryover.client.errors import CarryoverError, from_rpc_error
from protos.carryover.v1 import carryover_pb2 as pb
from tests.service.rpc.world import serving, wait_until

CALLS, ADMITTED = 4000, 8


@pytest.mark.slow
async def test_every_call_of_a_flood_past_the_limit_is_told_when_to_come_back() -> None:
    async with serving(max_calls=ADMITTED, drain_timeout_s=0.05) as world:
        world.engines["g2p"].hold = True
        request = pb.TransduceRequest(model=pb.ModelRef(name="g2p"), source="ab")
        calls = [world.stub.Transduce(request) for _ in range(CALLS)]

        async def outcome(call: grpc.aio.UnaryStreamCall[pb.TransduceRequest, pb.TransduceResponse]) -> CarryoverError:
            try:
                await call.read()
            except grpc.aio.AioRpcError as error:
                return from_rpc_error(error)
            raise AssertionError("expected no answer of an engine that is never told to answer")

        pending = {asyncio.create_task(outcome(call)) for call in calls}
        ended: set[asyncio.Task[CarryoverError]] = set()
        while len(pending) > ADMITTED:
            done, pending = await asyncio.wait(pending, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            assert done, "expected every call past the limit to be refused"
            ended |= done
        errors = [task.result() for task in ended]
        assert Counter(error.reason for error in errors) == {"OVERLOADED": CALLS - ADMITTED}
        assert all(error.retry_after_s for error in errors)
        await wait_until(lambda: len(world.engines["g2p"].submitted) == ADMITTED)
        for call in calls:
            call.cancel()
        await asyncio.wait(pending, timeout=10)
