"""How calls, servers and loops end: whoever ends them, everybody is told and nothing is left."""

import asyncio
import gc
import threading
import time
from typing import Any

import grpc
import grpc.aio
import pytest

from service.rpc.completion.loop import CompletionLoop
from service.rpc.completion.server import CompletionServer
from tests.service.rpc.completion.served import WAIT_S, serving
from tests.service.rpc.world import wait_until


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
        await wait_until(lambda: bool(ends))
        assert len(ends) == 1
        await own.close()


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
