"""The loop that waits for gRPC's queue does all that an asyncio loop does."""

import asyncio
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import uvloop

from service.rpc.completion import core, selector
from service.rpc.completion import loop as loops
from service.rpc.completion.loop import CompletionLoop, loop_factory
from service.rpc.completion.selector import CompletionSelector

WAIT_S = 30.0


def run(work: object) -> object:
    with asyncio.Runner(loop_factory=CompletionLoop) as runner:
        return runner.run(work)  # type: ignore[arg-type]


def test_other_threads_wake_it_each_time() -> None:
    async def hop() -> list[int]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(8) as pool:
            return await asyncio.gather(*(loop.run_in_executor(pool, int, i) for i in range(2_000)))

    assert run(hop()) == list(range(2_000))


def test_a_waking_is_not_lost_while_it_falls_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread asks as the loop goes to sleep, the loop answers, over and over: a waking that is lost stops both."""
    monkeypatch.setattr(selector, "_LONGEST_WAIT_S", 3600)  # which would make up for it

    async def ping() -> int:
        loop, asked, answered = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
        assert isinstance(loop, CompletionLoop)
        count, missed = 0, list[int]()

        def ask() -> None:
            for i in range(2_000):
                answered.clear()
                until = time.monotonic() + WAIT_S
                while not loop.completions._waiting and time.monotonic() < until:
                    pass
                loop.call_soon_threadsafe(asked.set)
                if not answered.wait(WAIT_S):
                    missed.append(i)
                    loop.call_soon_threadsafe(thread_ended.set)
                    return

        thread_ended = asyncio.Event()
        thread = threading.Thread(target=ask)
        thread.start()
        while count < 2_000:
            await asyncio.wait_for(asked.wait(), 2 * WAIT_S)
            asked.clear()
            count += 1
            answered.set()
        thread.join(WAIT_S)
        assert missed == []
        return count

    assert run(ping()) == 2_000


def test_a_clock_that_is_set_back_holds_nothing_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selector, "_LONGEST_WAIT_S", 0.05)
    waiting = CompletionSelector()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)  # so that the queue's own clock is an hour behind
    began = time.monotonic()
    waiting.select(0.01)
    assert time.monotonic() - began < WAIT_S
    monkeypatch.undo()
    waiting.close()


def test_timers_go_off_in_order() -> None:
    async def wait() -> list[int]:
        loop, rung = asyncio.get_running_loop(), list[int]()
        done = loop.create_future()
        for ms in (30, 5, 20, 0, 10):
            loop.call_later(ms / 1000, rung.append, ms)
        loop.call_later(0.04, done.set_result, None)
        await done
        return rung

    assert run(wait()) == [0, 5, 10, 20, 30]


def test_sockets_are_read_and_written_beside_it() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def talk() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = os.urandom(3_000_000)  # more than any buffer on the way: both sides have to wait to write

        async def send() -> None:
            writer.write(sent)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        got = await asyncio.wait_for(reader.read(-1), WAIT_S)
        await sending
        server.close()
        assert got == sent
        return got

    assert run(talk())


def test_a_reader_that_reads_little_is_told_again() -> None:
    async def read() -> bytes:
        ours, theirs = socket.socketpair()
        got, loop = bytearray(), asyncio.get_running_loop()
        done = loop.create_future()

        def take() -> None:
            got.extend(ours.recv(1))
            if len(got) == 100:
                loop.remove_reader(ours)
                done.set_result(None)

        with ours, theirs:
            loop.add_reader(ours, take)
            theirs.send(bytes(range(100)))
            await asyncio.wait_for(done, WAIT_S)
        return bytes(got)

    assert run(read()) == bytes(range(100))


def test_signals_arrive() -> None:
    async def wait() -> None:
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, came.set)
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.wait_for(came.wait(), WAIT_S)
            came.clear()
        loop.remove_signal_handler(signal.SIGUSR1)

    run(wait())


def test_nothing_is_left_of_those_that_were_closed() -> None:
    async def nothing() -> None:
        await asyncio.sleep(0)

    run(nothing())  # what gRPC keeps for the process
    gc.collect()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        run(nothing())
    gc.collect()
    until = time.monotonic() + WAIT_S
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)  # threads of gRPC's channels end by themselves
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


def test_waking_what_was_closed_does_nothing() -> None:
    selector = CompletionSelector()
    selector.close()
    selector.wake()
    selector.close()


def test_uvloop_takes_its_place_where_grpc_is_not_as_expected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert loop_factory() is CompletionLoop
    assert loop_factory("uvloop") is uvloop.new_event_loop

    def changed() -> CompletionSelector:
        raise AttributeError("CompletionQueue")

    monkeypatch.setattr(loops, "CompletionSelector", changed)
    assert loop_factory() is uvloop.new_event_loop
    assert "(CompletionQueue)" in caplog.text
    monkeypatch.setattr(core, "MISSING", ["Server"])
    assert loop_factory() is uvloop.new_event_loop
    assert "grpcio has no Server" in caplog.text
    assert "at a higher cost a message" in caplog.text


def test_a_proxy_for_http_is_not_asked_for_a_way_to_ourselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setattr("service.rpc.completion.waker._CONNECT_S", 3.0)
    assert loop_factory() is CompletionLoop


def test_uvloop_takes_its_place_where_we_cannot_reach_ourselves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.rpc.completion.waker._CONNECT_S", 0.2)
    connect = grpc.insecure_channel
    monkeypatch.setattr(grpc, "insecure_channel", lambda address, **more: connect("127.0.0.1:1", **more))
    assert loop_factory() is uvloop.new_event_loop
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "gRPC's queue cannot be waited for (expected to reach ourselves through a local socket, got no call): "
        "grpc.aio serves, at a higher cost a message"
    ]


def test_a_grpc_without_that_inside_is_imported_all_the_same() -> None:
    """A release that moves it: the service starts, on uvloop."""
    hidden = """
import importlib, sys
import grpc, grpc.aio
real = importlib.import_module
def hiding(name, package=None):
    if name == "grpc._cython.cygrpc":
        raise ImportError(name)
    return real(name, package)
importlib.import_module = hiding
import uvloop, service.main
from service.rpc.completion.loop import loop_factory
assert loop_factory() is uvloop.new_event_loop
"""
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "grpcio has no CompletionQueue" in done.stderr
