"""The server is a gRPC server: what callers and handlers see is what grpc.aio's would have shown them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.rpc.completion.served import serving
from tests.service.rpc.world import wait_until


async def test_metadata_goes_both_ways_and_a_status_with_its_trailers() -> None:
    seen: list[Any] = []

    async def unary(request: bytes, context: Any) -> bytes:
        seen.append([(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")])
        seen.append(context.time_remaining())
        await context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last-bin", b"\x00\xff"),))
        return request[::-1]

    async with serving(unary) as (_, channel, _):
        call = channel.unary_unary("/t.T/Unary")(b"abc", metadata=(("x-a", "b"), ("x-c-bin", b"\x00")), timeout=60)
        assert await call == b"cba"
        assert ("x-first", "1") in list(await call.initial_metadata())
        assert ("x-last-bin", b"\x00\xff") in list(await call.trailing_metadata())
        assert seen[0] == [("x-a", "b"), ("x-c-bin", b"\x00")]
        assert 0 < seen[1] < 61
        await channel.unary_unary("/t.T/Unary")(b"")
        assert seen[3] is None or seen[3] > 1e6  # grpc.aio's has one in the year 2262


async def test_an_abort_is_the_status_of_the_call() -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone: é", (("x-why", "it is"),))
        return b"never"

    async with serving(unary) as (_, channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t.T/Unary")(b"")
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "gone: é")
        assert ("x-why", "it is") in list(caught.value.trailing_metadata())


async def test_what_has_no_handler_and_what_breaks_has_a_status_without_our_insides() -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        raise ValueError("secret")

    async with serving(unary) as (_, channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t.T/Other")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t.T/Unary")(b"")
        assert caught.value.code() is grpc.StatusCode.UNKNOWN


async def test_answers_that_a_handler_yields_or_writes_arrive_in_order() -> None:
    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for i in range(100):
            yield b"%d" % i

    async def both(requests: AsyncIterator[bytes], context: Any) -> None:
        async for request in requests:
            await context.write(request + b"!")

    async with serving(stream=stream, both=both) as (_, channel, _):
        assert [one async for one in channel.unary_stream("/t.T/Stream")(b"")] == [b"%d" % i for i in range(100)]
        call: Any = channel.stream_stream("/t.T/Both")()
        for i in range(100):
            await call.write(b"%d" % i)
        await call.done_writing()
        assert [one async for one in call] == [b"%d!" % i for i in range(100)]
        assert await call.code() is grpc.StatusCode.OK


async def test_a_caller_that_does_not_read_stops_the_writer() -> None:
    written = 0

    async def both(requests: Any, context: Any) -> None:
        nonlocal written
        while True:
            await context.write(b"x" * 100_000)
            written += 1

    async with serving(both=both) as (_, channel, _):
        call: Any = channel.stream_stream("/t.T/Both")()
        await wait_until(lambda: written > 0)
        before = -1
        while before != written:  # until it stands still
            before = written
            await asyncio.sleep(0.1)
        assert written < 1000
        for _ in range(written + 5):  # it goes on as it is read
            await call.read()
        await wait_until(lambda: written > before)
        call.cancel()


async def test_many_calls_at_once_are_each_answered() -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        return request

    async with serving(unary) as (_, channel, _):
        call = channel.unary_unary("/t.T/Unary")

        async def ask(i: int) -> bytes:
            answer: bytes = await call(b"%d" % i)
            return answer

        assert await asyncio.gather(*(ask(i) for i in range(500))) == [b"%d" % i for i in range(500)]


async def test_a_message_of_megabytes_goes_both_ways() -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        return request

    async with serving(unary) as (_, channel, _):
        sent = bytes(range(256)) * 12_000
        assert await channel.unary_unary("/t.T/Unary")(sent) == sent
