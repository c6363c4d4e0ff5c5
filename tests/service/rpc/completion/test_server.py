"""The server is a gRPC server: what its callers and its handlers see is what grpc.aio's would have shown them."""

import asyncio
import contextlib
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from service.rpc.completion.call import CallOver
from service.rpc.completion.loop import CompletionLoop
from service.rpc.completion.server import CompletionServer

WAIT_S = 30.0
Server = CompletionServer | grpc.aio.Server
Behaviour = Callable[[Any, Any], Any]


def make_server() -> Server:
    loop = asyncio.get_running_loop()
    return CompletionServer(loop, ()) if isinstance(loop, CompletionLoop) else grpc.aio.server()


@asynccontextmanager
async def serving(
    unary: Behaviour | None = None,
    stream: Behaviour | None = None,
    both: Behaviour | None = None,
    handlers: Mapping[str, Any] | None = None,
) -> AsyncIterator[tuple[Server, Any, str]]:
    """Serve /t.T/Unary, Stream (one message in) and Both (streams) of plain bytes, and other handlers."""
    server = make_server()
    handlers = dict(handlers or {})
    if unary:
        handlers["Unary"] = grpc.unary_unary_rpc_method_handler(unary)
    if stream:
        handlers["Stream"] = grpc.unary_stream_rpc_method_handler(stream)
    if both:
        handlers["Both"] = grpc.stream_stream_rpc_method_handler(both)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    address = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            yield server, channel, address
        finally:
            await server.stop(0)


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    return await call.code(), await call.details()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.001)


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


@pytest.mark.parametrize("how", ["cancel", "deadline", "disconnect"])
async def test_a_handler_whose_caller_goes_away_is_cancelled(how: str) -> None:
    started, ended = asyncio.Event(), asyncio.Event()
    ends: list[Any] = []

    async def both(requests: Any, context: Any) -> None:
        context.add_done_callback(ends.append)
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.set()
            with pytest.raises((grpc.aio.InternalError, grpc.aio.UsageError)):
                await context.write(b"too late")
            raise

    async with serving(both=both) as (_, _, address):
        own = grpc.aio.insecure_channel(address)
        call: Any = own.stream_stream("/t.T/Both")(timeout=0.2 if how == "deadline" else None)
        await call.write(b"")
        async with asyncio.timeout(WAIT_S):
            await started.wait()
            if how == "cancel":
                call.cancel()
            elif how == "disconnect":
                await own.close()
            await ended.wait()
        await until(lambda: bool(ends))
        assert len(ends) == 1
        await own.close()


async def test_a_caller_that_does_not_read_stops_the_writer() -> None:
    written = 0

    async def both(requests: Any, context: Any) -> None:
        nonlocal written
        while True:
            await context.write(b"x" * 100_000)
            written += 1

    async with serving(both=both) as (_, channel, _):
        call: Any = channel.stream_stream("/t.T/Both")()
        await until(lambda: written > 0)
        before = -1
        while before != written:  # until it stands still
            before = written
            await asyncio.sleep(0.1)
        assert written < 1000
        for _ in range(written + 5):  # it goes on as it is read
            await call.read()
        await until(lambda: written > before)
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


async def test_to_stop_is_to_wait_for_those_that_end_in_time_and_to_cancel_the_others() -> None:
    cancelled: list[bytes] = []

    async def unary(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.sleep(float(request))
        except asyncio.CancelledError:
            cancelled.append(request)
            raise
        return b"done"

    async with serving(unary) as (server, channel, _):
        call = channel.unary_unary("/t.T/Unary")
        quick, slow = asyncio.ensure_future(call(b"0.3")), asyncio.ensure_future(call(b"3600"))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await server.stop(1.0)
        assert time.monotonic() - began < 10
        assert await quick == b"done"
        with pytest.raises(grpc.aio.AioRpcError):
            await slow
        assert cancelled == [b"3600"]
        await server.stop(1.0)  # once more is nothing


async def test_a_handler_that_will_not_be_cancelled_does_not_hold_the_end_up_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not isinstance(asyncio.get_running_loop(), CompletionLoop):
        pytest.skip("grpc.aio's waits for ever")
    monkeypatch.setattr("service.rpc.completion.server._STOP_S", 0.2)
    let_go, started = asyncio.Event(), asyncio.Event()

    async def unary(request: bytes, context: Any) -> bytes:
        started.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return b""

    async with serving(unary) as (server, channel, _):
        asking = asyncio.ensure_future(channel.unary_unary("/t.T/Unary")(b""))
        await asyncio.wait_for(started.wait(), WAIT_S)
        async with asyncio.timeout(WAIT_S):
            await server.stop(0)
        let_go.set()
        with pytest.raises(grpc.aio.AioRpcError):
            await asking


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


async def test_calls_that_are_over_before_they_begin_are_let_go_of(recwarn: pytest.WarningsRecorder) -> None:
    """Their arrival and their end are taken in one turn of the loop, as under a flood of short deadlines."""

    async def unary(request: bytes, context: Any) -> bytes:
        return request

    def flood(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(WAIT_S)
            call: Any = channel.unary_unary("/t.T/Unary")
            late = [call.future(b"", timeout=0.005) for _ in range(300)]
            assert {one.exception(WAIT_S).code() for one in late} == {grpc.StatusCode.DEADLINE_EXCEEDED}

    async with serving(unary) as (_, channel, address):
        thread = threading.Thread(target=flood, args=(address,))
        thread.start()
        thread.join(WAIT_S)  # nothing is taken meanwhile
        assert await channel.unary_unary("/t.T/Unary")(b"next", timeout=WAIT_S) == b"next"
    gc.collect()
    assert [str(one.message) for one in recwarn if "never awaited" in str(one.message)] == []


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
            await until(lambda: not server._tasks)


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


def test_a_loop_that_closes_under_calls_cancels_them(caplog: pytest.LogCaptureFixture) -> None:
    """As a second signal does, which ends the process wherever it is."""
    asked = threading.Event()
    ended: list[grpc.StatusCode] = []

    async def unary(request: bytes, context: Any) -> bytes:
        asked.set()
        await asyncio.sleep(3600)
        return b""

    def ask(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/t.T/Unary")
            ended.append(call.future(b"").exception(WAIT_S).code())

    async def serve() -> threading.Thread:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CompletionLoop)
        server = CompletionServer(loop, ())
        handlers: dict[str, Any] = {"Unary": grpc.unary_unary_rpc_method_handler(unary)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        thread = threading.Thread(target=ask, args=(port,))
        thread.start()
        await asyncio.to_thread(asked.wait, WAIT_S)
        return thread

    with asyncio.Runner(loop_factory=CompletionLoop) as runner:
        thread = runner.run(serve())
    thread.join(WAIT_S)
    assert ended in ([grpc.StatusCode.CANCELLED], [grpc.StatusCode.UNAVAILABLE])
    assert "still open" not in caplog.text
