"""One call as its handler sees it: messages without a task, and what goes wrong with them."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from service.rpc.completion.call import CallOver
from service.rpc.completion.loop import CompletionLoop
from service.rpc.completion.server import CompletionServer
from tests.service.rpc.completion.served import WAIT_S, make_server, serving
from tests.service.rpc.world import wait_until


async def test_messages_without_a_task_come_one_at_a_time_and_the_end_last() -> None:
    if not isinstance(asyncio.get_running_loop(), CompletionLoop):
        pytest.skip("of our own server")
    got: list[Any] = []

    async def both(requests: Any, call: Any) -> None:
        over = asyncio.get_running_loop().create_future()

        def take(message: Any) -> None:
            got.append(message)
            if message is grpc.aio.EOF:
                over.set_result(None)
            else:
                call.send(message, lambda went: call.receive(take) if went else over.set_result(None))

        call.receive(take)
        await over
        again = asyncio.get_running_loop().create_future()
        call.receive(again.set_result)  # after the end there is the end
        got.append(await again)

    async with serving(both=both) as (_, channel, _):
        call: Any = channel.stream_stream("/t.T/Both")()
        for i in range(50):
            await call.write(b"%d" % i)
            assert await call.read() == b"%d" % i
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert got == [*(b"%d" % i for i in range(50)), grpc.aio.EOF, grpc.aio.EOF]


async def test_what_is_sent_on_a_call_that_is_over_is_an_error_and_not_a_crash() -> None:
    if not isinstance(asyncio.get_running_loop(), CompletionLoop):
        pytest.skip("of our own server")
    kept: list[Any] = []

    async def unary(request: bytes, context: Any) -> bytes:
        kept.append(context)
        return b"done"

    async with serving(unary) as (_, channel, _):
        await channel.unary_unary("/t.T/Unary")(b"")
        (context,) = kept
        late: list[Callable[[], Awaitable[None]]] = [
            lambda: context.write(b"more"),
            lambda: context.abort(grpc.StatusCode.INTERNAL, "no"),
        ]
        for one in late:
            with pytest.raises((CallOver, grpc.aio.UsageError)):
                await one()


async def test_bytes_that_are_no_message_end_the_call_and_leave_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    if not isinstance(asyncio.get_running_loop(), CompletionLoop):
        pytest.skip("grpc.aio's leaves one")

    async def unary(request: int, context: Any) -> bytes:
        return b"%d" % request

    async def both(requests: AsyncIterator[int], context: Any) -> None:
        async for request in requests:
            await context.write(b"%d" % request)

    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary, request_deserializer=int),
        "Both": grpc.stream_stream_rpc_method_handler(both, request_deserializer=int),
    }
    async with serving(handlers=handlers) as (_, channel, _):
        assert await channel.unary_unary("/t.T/Unary")(b"7") == b"7"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t.T/Unary")(b"seven", timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "expected a message of this method, got 5 bytes that are not"
        call: Any = channel.stream_stream("/t.T/Both")(timeout=WAIT_S)
        await call.write(b"7")
        assert await call.read() == b"7"
        await call.write(b"seven")
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_path_that_is_no_text_is_no_method(caplog: pytest.LogCaptureFixture) -> None:
    if not isinstance(asyncio.get_running_loop(), CompletionLoop):
        pytest.skip("grpc.aio's serves nobody any more after it")

    async def unary(request: bytes, context: Any) -> bytes:
        return request

    async with serving(unary) as (_, channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(b"/t.T/\xff\xfe")(b"", timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def refuses_to_serialise(answer: object) -> bytes:
    raise ValueError("not this one")


async def test_an_answer_that_cannot_be_sent_is_told_at_once() -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        return b""

    server = make_server()
    handler: Any = grpc.unary_unary_rpc_method_handler(unary, response_serializer=refuses_to_serialise)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Unary": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/t.T/Unary")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=WAIT_S)
        assert caught.value.code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    await server.stop(0)


async def test_a_handler_that_swallows_its_abort_ends_all_the_same() -> None:
    over = asyncio.Event()

    async def unary(request: bytes, context: Any) -> bytes:
        with contextlib.suppress(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.DATA_LOSS, "gone")
        over.set()
        return b"late"

    async with serving(unary) as (server, channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t.T/Unary")(b"")
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS
        await asyncio.wait_for(over.wait(), WAIT_S)
        if isinstance(server, CompletionServer):
            await wait_until(lambda: not server._tasks)


async def test_two_readers_of_one_call_are_one_too_many() -> None:
    if not isinstance(asyncio.get_running_loop(), CompletionLoop):
        pytest.skip("of our own server")
    seen: list[BaseException] = []

    async def both(requests: Any, call: Any) -> None:
        call.receive(lambda message: None)
        try:
            call.receive(lambda message: None)
        except grpc.aio.UsageError as error:
            seen.append(error)

    async with serving(both=both) as (_, channel, _):
        call: Any = channel.stream_stream("/t.T/Both")()
        assert await call.read() is grpc.aio.EOF
    assert len(seen) == 1
