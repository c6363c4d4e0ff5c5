"""The service as its own process, with a real bundle and a real engine."""

import asyncio
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from carryover.client.aio import AsyncClient
from carryover.client.errors import Cancelled, CarryoverError, InternalError, ShuttingDown, Unavailable
from carryover.client.sync import Client
from carryover.client.types import Token, TransduceResult
from export.bundle import hash_files, load_manifest, write_manifest
from tests.service.bundles import publish_transducer
from tests.service.process import running, start, wait_for

# The engine's next turn with anything to do trips over a bug.
BUG = """
import service.engine.engine as engine
def schedule(*_):
    raise AssertionError("a bug at /srv/models")
engine.schedule = schedule
"""
# A signal comes while the first bundle is being opened.
STOP_WHILE_OPENING = """
import os, signal
import service.repository as repository
def open_runner(*args):
    os.kill(os.getpid(), signal.{how})
    raise ValueError("opened all the same")
repository.open_runner = open_runner
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    publish_transducer(folder, "tiny", 1)
    shutil.copytree(folder / "tiny" / "1", folder / "tiny" / "2")  # its manifest says version 1
    (folder / "broken" / "1").mkdir(parents=True)
    garbled = publish_transducer(folder, "garbled", 1)
    manifest = load_manifest(garbled)
    (garbled / "step.onnx").write_bytes(b"garbage")
    write_manifest(garbled, manifest.model_copy(update={"files": hash_files(garbled)}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("event_loop", ["completion", "uvloop"])
def test_it_serves_what_it_can_says_so_and_ends_with_status_0(repository: Path, event_loop: str) -> None:
    with running(repository, event_loop=event_loop) as server:
        with Client(server.address) as client:
            assert client.is_serving("tiny")
            listed = client.models()
            assert [(model.ref.name, model.ref.version) for model in listed.models] == [("tiny", 1)]
            assert {(bundle.ref.name, bundle.ref.version, bundle.reason) for bundle in listed.refused} == {
                ("broken", 1, "bundle"),
                ("garbled", 1, "graphs"),
                ("tiny", 2, "bundle"),
            }
            assert client.transduce("tiny", "abc", beam_size=3).finish().best.text
        status, log = server.stop()
    assert status == 0
    assert "model tiny version 1: encoder_decoder, fp32, CPUExecutionProvider" in log
    assert "refused tiny version 2: " in log
    assert "refused broken version 1: " in log
    assert re.search(r"refused garbled version 1: .*step\.onnx", log)  # the operator is told all of it
    assert "Traceback" not in log


@pytest.mark.slow
def test_ctrl_c_is_an_orderly_end_too(repository: Path) -> None:
    with running(repository) as server:
        status, log = server.stop(signal.SIGINT)
    assert (status, "Traceback" in log) == (0, False)


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why_in_one_line(repository: Path, tmp_path: Path) -> None:
    with running(repository) as server:
        port = server.address.rpartition(":")[2]
        taken = f"127.0.0.1:{port}: expected an address to listen on, got: Address already in use"
        cases: list[tuple[Path, dict[str, object], str]] = [
            (tmp_path / "none", {}, "none"),
            (tmp_path, {}, "expected at least one model in"),
            (repository, {"port": port}, taken),
            (repository, {"http_port": port}, taken),
            (repository, {"admin_token_file": tmp_path / "none"}, "got: No such file or directory"),
            (repository, {"model_control": "explicit", "load_models": "tiny,nope"}, "got nope"),
            (repository, {"provider": "cuda"}, "provider cuda: expected"),
        ]
        for folder, settings, says in cases:
            process = start(folder, **settings)
            out, log = process.communicate(timeout=60)
            if says.startswith("provider cuda") and out.startswith("serving"):
                pytest.skip("this machine has CUDA")
            last = log.strip().splitlines()[-1]
            assert process.returncode == 1
            assert "cannot serve: " in last
            assert says in last
            assert "Traceback" not in log
            assert "slots of" not in log or folder == tmp_path  # it is known before a model is opened


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_a_signal_while_bundles_are_opened_is_an_orderly_end_too(repository: Path, how: str) -> None:
    process = start(repository, STOP_WHILE_OPENING.format(how=how))
    out, log = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, ""), log
    assert "stopped before it served" in log
    assert "Traceback" not in log


# The operator asks for a reload while the first bundle is being opened.
RELOAD_WHILE_OPENING = """
import os, signal
import service.repository as repository
open_runner = repository.open_runner
def hup(*args):
    os.kill(os.getpid(), signal.SIGHUP)
    return open_runner(*args)
repository.open_runner = hup
"""


@pytest.mark.slow
def test_a_reload_while_bundles_are_opened_waits_for_them(repository: Path) -> None:
    log = list[str]()
    with running(repository, RELOAD_WHILE_OPENING) as server:
        with Client(server.address) as client:
            assert [model.ref.name for model in client.models().models] == ["tiny"]
        wait_for(server.process, "reloaded: 0 models are new", log=log)
        status, rest = server.stop()
    assert (status, "Traceback" in "".join(log) + rest) == (0, False)


@pytest.mark.slow
def test_a_server_may_start_with_nothing_where_models_come_later(repository: Path) -> None:
    with running(repository, model_control="explicit") as server:
        with Client(server.address) as client:
            assert client.models().models == ()
            assert client.is_serving()
        status, log = server.stop()
    assert (status, "Traceback" in log) == (0, False)


@pytest.mark.slow
async def test_a_server_whose_engine_dies_stops_serving_and_ends_with_status_1(repository: Path) -> None:
    with running(repository, BUG) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "tiny")]
            assert [(await watch.read()).status for watch in watches] == [health_pb2.HealthCheckResponse.SERVING] * 2
            async with AsyncClient(server.address) as client:
                with pytest.raises(InternalError) as caught:
                    await client.transduce("tiny", "abc").finish()
            assert "/srv/models" not in str(caught.value)
            assert [(await watch.read()).status for watch in watches] == [
                health_pb2.HealthCheckResponse.NOT_SERVING
            ] * 2
        _, log = await asyncio.to_thread(server.process.communicate, timeout=30)
    assert server.process.returncode == 1
    assert "model tiny has stopped" in log
    assert "a bug at /srv/models" in log


Answer = tuple[list[Token], TransduceResult]


async def ask(client: AsyncClient, source: str, leave_after: int | None = None) -> Answer | None:
    """Read an answer to its end; or cancel it once some tokens are there, and give None."""
    stream = client.transduce("tiny", source, beam_size=3, num_best=3, max_tokens=60)
    tokens: list[Token] = []
    if leave_after == 0:
        stream.cancel()
    try:
        async for token in stream:
            tokens.append(token)
            if len(tokens) == leave_after:
                stream.cancel()
    except (Cancelled, asyncio.CancelledError):
        if leave_after is None:
            raise
        return None
    return tokens, stream.result


@pytest.mark.slow
async def test_64_at_once_a_third_cancelled_answer_as_one_at_a_time(repository: Path) -> None:
    draw = random.Random(5)
    sources = ["".join(draw.choices("abc", k=draw.randint(1, 20))) for _ in range(64)]
    with running(repository) as server:
        async with AsyncClient(server.address) as client:
            alone = [await ask(client, source) for source in sources]
            assert len({answer[1].text for answer in alone if answer is not None}) > 5
            doomed = {i: draw.randrange(3) for i in draw.sample(range(64), 21)}
            together = await asyncio.gather(*(ask(client, source, doomed.get(i)) for i, source in enumerate(sources)))
            cancelled = {i for i in range(64) if together[i] is None}
            assert cancelled <= doomed.keys()
            assert len(cancelled) >= 5
            assert all(together[i] == alone[i] for i in range(64) if i not in cancelled)
            async with asyncio.timeout(60):
                load = (await client.model("tiny")).load
                while (load.waiting, load.running) != (0, 0):
                    load = (await client.model("tiny")).load
            assert (load.free_slots, load.free_memory_rows) == (load.num_slots, load.num_memory_rows)
        status, _ = server.stop()
    assert status == 0


@pytest.mark.slow
async def test_a_server_that_stops_under_load_answers_or_refuses_every_call(repository: Path) -> None:
    with running(repository, drain_timeout_s=60) as server:
        async with AsyncClient(server.address) as client:
            expected = await ask(client, "abcabc")
            outcomes: list[object] = []

            async def keep_asking() -> None:
                try:
                    while True:
                        assert await ask(client, "abcabc") == expected
                        outcomes.append("answered")
                except CarryoverError as error:
                    outcomes.append(error)

            callers = [asyncio.create_task(keep_asking()) for _ in range(16)]
            while len(outcomes) < 50:
                await asyncio.sleep(0.001)
            before = time.monotonic()
            status, log = await asyncio.to_thread(server.stop)
            assert time.monotonic() - before < 50, "it waits for what is in flight, not for the drain timeout"
            await asyncio.gather(*callers)
    errors = [outcome for outcome in outcomes if isinstance(outcome, CarryoverError)]
    assert len(errors) == 16
    odd = [repr(error) for error in errors if not isinstance(error, Unavailable)]
    assert not odd, (odd, log[-3000:])
    assert any(isinstance(error, ShuttingDown) for error in errors), errors
    assert (status, "Traceback" in log) == (0, False)
