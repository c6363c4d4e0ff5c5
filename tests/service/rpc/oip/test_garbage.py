"""Requests put together at random: each is answered, never by a fault of ours, and nothing is left behind."""

import random
from typing import Any

import grpc
import grpc.aio
import pytest

from protos.inference import grpc_service_pb2 as pb
from service.oip.failures import INTERNAL
from service.oip.messages import DATATYPES
from tests.service.rpc.oip.world import floats, run, serving, step
from tests.service.rpc.world import wait_until

NAMES = ["", "x", "y", "values", "scale", "total", "total_in", "count_out", "é\0", "n" * 300]
MODELS = ["sums", "same", "sums", "same", "", "nobody", "../same"]
KEYS = [
    "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "triton_enable_empty_final_response",
    "triton_other", "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "classification", "own",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 3, 2**31, 2**63 - 1, -(2**63)]
IDS: list[int | str] = [1, 2, "a"]
SIZES = [0, 1, 1, 1, 2, 3, 3, -1, 2**31, 2**62]
OUR_FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def parameter(rng: random.Random, field: Any) -> None:
    choice = rng.choice(["bool_param", "int64_param", "string_param", "double_param", "uint64_param", "none"])
    values: dict[str, list[Any]] = {
        "bool_param": [True, False],
        "int64_param": NUMBERS,
        "string_param": NAMES,
        "double_param": [0.0, 0.5, -1e308, float("nan"), float("inf")],
        "uint64_param": [0, 1, 2**64 - 1],
    }
    field.Clear()
    if choice in values:
        setattr(field, choice, rng.choice(values[choice]))


def contents(rng: random.Random, field: pb.InferTensorContents) -> None:
    values: dict[str, list[Any]] = {
        "bool_contents": [True, False],
        "int_contents": [0, -1, 2**31 - 1],
        "int64_contents": [0, -1, 2**63 - 1],
        "uint_contents": [0, 2**32 - 1],
        "uint64_contents": [0, 2**64 - 1],
        "fp32_contents": [0.0, float("nan")],
        "fp64_contents": [0.0, 1e308],
        "bytes_contents": [b"", b"\xff"],
    }
    field.SetInParent()
    for name in rng.sample(list(values), rng.choice([0, 1, 1, 1, 2])):
        getattr(field, name).extend(rng.choices(values[name], k=rng.choice([0, 1, 3, 4])))


def garbage(rng: random.Random) -> pb.ModelInferRequest:
    """A request; about half are good ones with something spoiled."""
    request = step(rng.choice(IDS), 1, 2, start=rng.random() < 0.5) if rng.random() < 0.3 else run([1, 2, 3])
    if rng.random() < 0.5:
        del request.inputs[:], request.raw_input_contents[:]
    if rng.random() < 0.5:
        request.model_name = rng.choice(MODELS)
        request.model_version = rng.choice(["", "1", "2", "-1", "x", "9" * 30])
    request.id = rng.choice(NAMES)
    for _ in range(rng.choice([0, 0, 1, 2, 3])):
        field = request.inputs.add(name=rng.choice(NAMES), datatype=rng.choice([*DATATYPES, "", "FLOAT"]))
        field.shape.extend(rng.choices(SIZES, k=rng.choice([0, 1, 2, 2, 3, 40])))
        if rng.random() < 0.3:
            contents(rng, field.contents)
        else:
            request.raw_input_contents.append(rng.randbytes(rng.choice([0, 1, 4, 12, 13])))
        if rng.random() < 0.2:
            parameter(rng, field.parameters[rng.choice(KEYS)])
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        parameter(rng, request.outputs.add(name=rng.choice(NAMES)).parameters[rng.choice(KEYS)])
    for _ in range(rng.choice([0, 0, 1, 3])):
        parameter(rng, request.parameters[rng.choice(KEYS)])
    return request


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_every_request_is_answered_and_none_breaks_the_service(seed: int) -> None:
    rng = random.Random(seed)
    async with serving() as world:
        codes: set[Any] = set()
        for _ in range(150):
            try:
                await world.stub.ModelInfer(garbage(rng), timeout=20)
                codes.add(grpc.StatusCode.OK)
            except grpc.aio.AioRpcError as error:
                codes.add(error.code())
                assert error.code() not in OUR_FAULTS, error.details()
        assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND} <= codes
        call = world.stub.ModelStreamInfer()
        num_errors = 0
        for _ in range(150):
            await call.write(garbage(rng))
        for _ in range(150):
            answer = await call.read()
            num_errors += bool(answer.error_message)
            assert INTERNAL not in answer.error_message
        assert 0 < num_errors < 150
        await call.write(run([7, 8, 9]))
        assert floats((await call.read()).infer_response) == [7, 8, 9]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        await wait_until(lambda: not world.server.in_flight)
        assert not world.sums.held
        assert not world.same.held
