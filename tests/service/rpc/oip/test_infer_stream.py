"""ModelStreamInfer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from protos.inference import grpc_service_pb2 as pb
from protos.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from service.engine.interface import StepTensors
from service.errors import DeadlineExceeded, Overloaded
from service.rpc.outbox import MAX_OWED_BYTES
from tests.service.rpc.oip.world import World, ended, floats, run, serving, step
from tests.service.rpc.world import wait_until

# gRPC gives a caller that does not read about the first 64 KiB in flight and as much again in the server's buffer.
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving() as running:
        yield running


class Stream:
    """One stream, driven by hand."""

    def __init__(self, world: World, **how: Any) -> None:
        self.call = world.stub.ModelStreamInfer(**how)

    async def send(self, *requests: pb.ModelInferRequest) -> None:
        for request in requests:
            await self.call.write(request)

    async def read(self) -> pb.ModelStreamInferResponse:
        answer = await self.call.read()
        assert isinstance(answer, pb.ModelStreamInferResponse), answer
        return answer

    async def answers(self, count: int) -> list[tuple[str, float]]:
        """Ids and values of the next answers, which must be good."""
        found = []
        for _ in range(count):
            answer = await self.read()
            assert not answer.error_message, answer.error_message
            found.append((answer.infer_response.id, floats(answer.infer_response)[0]))
        return found

    async def failure(self) -> tuple[str, str]:
        """Id and text of the next answer, which must be an error."""
        answer = await self.read()
        assert answer.error_message
        assert not answer.infer_response.outputs
        return answer.infer_response.id, answer.error_message

    async def end(self) -> grpc.StatusCode:
        """Half-close; all that follows must be the end."""
        await self.call.done_writing()
        assert await self.call.read() is grpc.aio.EOF
        code: grpc.StatusCode = await self.call.code()
        return code


def steps_of(world: World) -> Sequence[StepTensors]:
    return [request for request in world.sums.submitted if isinstance(request, StepTensors)]


async def test_a_sequence_is_stepped_and_answered_in_order(world: World) -> None:
    stream = Stream(world)
    await stream.send(*(step(1, i, id=f"i{i}", start=i == 0, end=i == 9) for i in range(10)))
    assert await stream.answers(10) == [(f"i{i}", float(sum(range(i + 1)))) for i in range(10)]
    assert await stream.end() is grpc.StatusCode.OK
    assert not world.sums.sessions
    assert not world.server.in_flight


async def test_every_answer_says_that_it_is_the_last_to_its_request(world: World) -> None:
    stream = Stream(world)
    request = run([1, 2, 3], id="a")
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    await stream.send(request, step(1, 1, id="b"))
    answers = [(await stream.read()).infer_response for _ in range(2)]
    assert {answer.id for answer in answers} == {"a", "b"}
    for answer in answers:
        assert answer.parameters["triton_final_response"].bool_param is True
    assert await stream.end() is grpc.StatusCode.OK


async def test_an_error_has_the_id_of_its_request_and_the_stream_stays_open(world: World) -> None:
    stream = Stream(world)
    await stream.send(step(7, 1, id="bad"))
    name, text = await stream.failure()
    assert (name, text) == (
        "bad",
        "inference request for sequence 7 to model 'sums' must specify the START flag on the first request of the "
        "sequence",
    )
    await stream.send(pb.ModelInferRequest(model_name="nobody", id="who"))
    assert await stream.failure() == ("who", "Request for unknown model: 'nobody' is not found")
    malformed = run([1, 2, 3], id="odd")
    malformed.raw_input_contents[0] = b"abc"
    await stream.send(malformed)
    assert (await stream.failure())[0] == "odd"
    malformed.model_name = "nobody"
    await stream.send(malformed)
    assert await stream.failure() == ("odd", "Request for unknown model: 'nobody' is not found")
    await stream.send(run([4, 5, 6], id="good"))
    assert await stream.answers(1) == [("good", 4.0)]
    assert await stream.end() is grpc.StatusCode.OK


async def test_an_error_of_the_engine_is_told_on_the_stream(world: World) -> None:
    stream = Stream(world)
    world.same.hold = True
    await stream.send(run([1, 2, 3], id="late"))
    await wait_until(lambda: world.same.held)
    world.same.fail(next(iter(world.same.held)), DeadlineExceeded("too late"))
    assert (await stream.failure())[0] == "late"
    world.same.refusals = [Overloaded("the queue is full", 1.0)]
    await stream.send(run([1, 2, 3], id="full"))
    name, text = await stream.failure()
    assert name == "full"
    assert text.startswith("[request id: full] Exceeds maximum queue size")


async def test_sequences_do_not_wait_for_each_other(world: World) -> None:
    stream = Stream(world)
    await stream.send(step(1, 1, id="a0", start=True), step(2, 1, id="b0", start=True))
    await stream.answers(2)
    world.sums.hold = True
    await stream.send(step(1, 1, id="a1"))
    await wait_until(lambda: world.sums.held)
    world.sums.hold = False
    await stream.send(*(step(2, 1, id=f"b{i}") for i in range(1, 6)))
    assert await stream.answers(5) == [(f"b{i}", i + 1.0) for i in range(1, 6)]
    world.sums.release_all()
    assert await stream.answers(1) == [("a1", 2.0)]


async def test_a_refusal_waits_for_the_answers_before_it(world: World) -> None:
    stream = Stream(world)
    await stream.send(step(1, 1, id="a0", start=True))
    await stream.answers(1)
    world.sums.hold = True
    odd = step(1, 1, id="a2")
    odd.inputs[0].datatype = "INT32"
    await stream.send(step(1, 1, id="a1"), odd, step(2, 1, id="b"))
    assert (await stream.failure())[0] == "b"  # of another sequence: told at once, though it came last
    world.sums.hold = False
    world.sums.release_all()
    assert await stream.answers(1) == [("a1", 2.0)]
    name, text = await stream.failure()
    assert (name, text) == ("a2", "inference input 'values' data-type is 'INT32', but model 'sums' expects 'FP32'")


async def test_requests_without_sequence_or_id_keep_their_order_and_others_do_not(world: World) -> None:
    stream = Stream(world)
    world.same.hold = True
    await stream.send(run([1, 0, 0]), run([2, 0, 0]), run([3, 0, 0], id="named"))
    await wait_until(lambda: len(world.same.held) == 3)
    first, second, third = world.same.held
    world.same.release(third)
    assert await stream.answers(1) == [("named", 3.0)]
    world.same.release(second)
    world.same.hold = False
    await stream.send(run([4, 0, 0], id="later"))
    assert await stream.answers(1) == [("later", 4.0)]  # the second still waits for the first
    world.same.release(first)
    assert await stream.answers(2) == [("", 1.0), ("", 2.0)]


async def test_many_sequences_share_a_stream(world: World) -> None:
    stream = Stream(world)
    num_sequences, num_steps = 64, 5
    random = np.random.default_rng(0)
    left = dict.fromkeys(range(1, num_sequences + 1), 0)
    expected: dict[int, list[tuple[str, float]]] = {number: [] for number in left}
    sending = []
    while left:
        number = int(random.choice(list(left)))
        i = left[number]
        value = float(random.integers(0, 100))
        before = expected[number][-1][1] if i else 0.0
        expected[number].append((f"{number}/{i}", before + value))
        sending.append(step(number, value, id=f"{number}/{i}", start=i == 0, end=i == num_steps - 1))
        left[number] += 1
        if left[number] == num_steps:
            del left[number]
    writing = asyncio.create_task(stream.send(*sending))
    got: dict[int, list[tuple[str, float]]] = {number: [] for number in expected}
    for name, value in await stream.answers(num_sequences * num_steps):
        got[int(name.partition("/")[0])].append((name, value))
    await writing
    assert got == expected
    assert await stream.end() is grpc.StatusCode.OK
    assert not world.sums.sessions


async def test_half_closing_lets_what_is_in_flight_finish(world: World) -> None:
    stream = Stream(world)
    world.same.hold = True
    await stream.send(run([1, 0, 0], id="a"), run([2, 0, 0], id="b"))
    await wait_until(lambda: len(world.same.held) == 2)
    await stream.call.done_writing()
    world.same.release_all()
    assert await stream.answers(2) == [("a", 1.0), ("b", 2.0)]
    assert await stream.call.read() is grpc.aio.EOF
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_sequences_outlive_their_stream(world: World) -> None:
    stream = Stream(world)
    await stream.send(step(1, 1, start=True))
    await stream.answers(1)
    assert await stream.end() is grpc.StatusCode.OK
    again = Stream(world)
    await again.send(step(1, 1))
    assert await again.answers(1) == [("", 2.0)]


async def test_cancelling_frees_what_is_in_flight(world: World) -> None:
    stream = Stream(world)
    world.sums.hold = True
    await stream.send(*(step(number, 1, start=True) for number in range(1, 9)), *(step(1, 1) for _ in range(4)))
    await wait_until(lambda: len(steps_of(world)) == 12)
    stream.call.cancel()
    await wait_until(lambda: not world.server.in_flight)
    assert {request.id for request in steps_of(world)} <= set(world.sums.cancelled)
    world.sums.hold = False
    world.sums.release_all()
    await wait_until(lambda: not world.sums.sessions)
    assert not world.core.core.num_sequences


async def test_the_first_error_ends_a_stream_that_asks_for_it(world: World) -> None:
    stream = Stream(world, metadata=(("triton_grpc_error", "true"),))
    await stream.send(run([1, 2, 3], id="good"))
    assert await stream.answers(1) == [("good", 1.0)]
    world.same.hold = True
    await stream.send(run([1, 2, 3], id="pending"))
    await wait_until(lambda: world.same.held)
    with suppress(asyncio.InvalidStateError):  # it may be over before the write is
        await stream.send(step(3, 1, id="bad"))
    code, text = await ended(stream.call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "sequence 3 to model 'sums' must specify the START flag" in text
    await wait_until(lambda: not world.server.in_flight)
    assert not world.same.held  # nobody waits for it any more


async def test_an_error_of_the_engine_ends_it_too(world: World) -> None:
    stream = Stream(world, metadata=(("triton_grpc_error", "true"),))
    world.same.hold = True
    await stream.send(run([1, 2, 3]), run([4, 5, 6]))
    await wait_until(lambda: len(world.same.held) == 2)
    first, second = world.same.held
    world.same.fail(second, Overloaded("too slow", 1.0))  # the second: its turn comes after the first's
    world.same.release(first)
    assert await stream.answers(1) == [("", 1.0)]
    assert (await ended(stream.call))[0] is grpc.StatusCode.UNAVAILABLE


async def test_another_value_does_not_ask_for_it(world: World) -> None:
    stream = Stream(world, metadata=(("triton_grpc_error", "false"),))
    await stream.send(step(3, 1, id="bad"))
    assert (await stream.failure())[0] == "bad"
    assert await stream.end() is grpc.StatusCode.OK


async def test_bytes_that_are_no_request_end_the_stream(world: World) -> None:
    async with grpc.aio.insecure_channel(world.address) as channel:
        call: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
        with suppress(asyncio.InvalidStateError):
            await call.write(b"\xff\xff")
        assert (await ended(call))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_no_more_is_read_than_may_be_in_flight() -> None:
    async with serving(max_requests_in_flight_per_stream=4) as world:
        stream = Stream(world)
        world.same.hold = True
        writing = asyncio.create_task(stream.send(*(run([i, 0, 0], id=str(i)) for i in range(20))))
        await wait_until(lambda: len(world.same.held) == 4)
        other = Stream(world)  # and others are read on: once this one has its answer the first had its chance too
        world.same.hold = False
        await other.send(run([7, 0, 0], id="other"))
        assert await other.answers(1) == [("other", 7.0)]
        assert len(world.same.held) == 4
        world.same.release_all()
        assert sorted(await stream.answers(20)) == sorted((str(i), float(i)) for i in range(20))
        await writing


@pytest.mark.slow
async def test_no_more_bytes_are_read_than_may_be_in_flight(world: World) -> None:
    stream = Stream(world)
    mebibyte = (1.0,) * (2**20 // 4)
    for number in range(1, 25):
        await stream.send(step(number, 1, start=True))
    await stream.answers(24)
    world.sums.hold = True
    writing = asyncio.create_task(stream.send(*(step(number, *mebibyte, id=str(number)) for number in range(1, 25))))
    await wait_until(lambda: len(world.sums.held) >= MAX_OWED_BYTES // 2**20)
    other = Stream(world)  # and others are read on: once this one has its answer the first had its chance too
    await other.send(run([7, 0, 0], id="other"))
    assert await other.answers(1) == [("other", 7.0)]
    assert len(world.sums.held) <= MAX_OWED_BYTES // 2**20 + 1
    world.sums.hold = False
    world.sums.release_all()
    assert len(await stream.answers(24)) == 24
    await writing


async def test_a_caller_that_does_not_read_is_cut_off_and_its_work_ends() -> None:
    async with (
        serving(slow_reader_timeout_s=0.3, max_requests_in_flight_per_stream=8) as world,
        grpc.aio.insecure_channel(world.address, SMALL_WINDOW) as channel,
    ):
        stub: Any = GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer()

        async def send() -> None:
            for number in range(1, 2001):
                await call.write(step(number, 1, id="x" * 4000, start=True))

        sending = asyncio.create_task(send())
        await wait_until(lambda: len(steps_of(world)) >= 8)
        await wait_until(lambda: not world.server.in_flight)
        assert len(steps_of(world)) < 500  # of two thousand: what the buffers took, and what may be in flight
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_the_deadline_of_the_stream_is_that_of_its_requests(world: World) -> None:
    stream = Stream(world, timeout=30)
    await stream.send(step(1, 1, start=True))
    await stream.answers(1)
    (stepped,) = steps_of(world)
    assert stepped.deadline_s is not None
    stream.call.cancel()
