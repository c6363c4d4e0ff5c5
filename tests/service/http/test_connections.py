"""What a connection may cost: slow, silent, greedy and vanishing callers, and the end of the service."""

import asyncio
import json
import resource
import shutil
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from service.http import server as server_module
from tests.service.http.wire import answer, arrived, cancelled, ended, post, settled
from tests.service.http.world import PATIENCE_S, output, serving, step
from tests.service.tensor_models import INITIAL_TOTAL


async def test_a_caller_that_goes_cancels_its_request_and_its_sequence(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        await world.infer(step([1], start=True))
        world.gate.shut = True
        _, writer = await world.knock()
        writer.write(post(step([2])))
        await arrived(world)
        assert world.server.in_flight == 1
        writer.close()
        await cancelled(world)
        world.gate.open()
        status, gone = await world.infer(step([3]))
        assert status == 400 and "START flag" in gone["error"]
        await settled(world)
        assert world.core.num_sequences == 0


async def test_requests_on_one_connection_are_answered_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        reader, writer = await world.knock()
        writer.write(b"".join(post(step([value], start=value == 1)) for value in (1, 2, 3, 4)))
        totals = [output((await answer(reader))[1], "total") for _ in range(4)]
        assert totals == [[INITIAL_TOTAL + total] for total in (1, 3, 6, 10)]
        writer.close()


async def test_a_head_that_never_ends_ends_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT_S", 0.05)
    async with serving(tmp_path) as world:
        for begun in (b"", b"GET /v2 HT", post(step([1], start=True)) + b"GET /v2"):
            reader, writer = await world.knock()
            writer.write(begun)
            if begun.startswith(b"POST"):
                assert (await answer(reader))[0] == 200
            assert await ended(reader) == b""
            writer.close()


async def test_what_is_not_http_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00\n\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000,
        ):
            reader, writer = await world.knock()
            writer.write(garbage)
            status, told = await answer(reader)
            assert status == 400 and "error" in told
            assert await ended(reader) == b""
            writer.close()


async def test_of_too_many_connections_an_idle_one_gives_way(tmp_path: Path) -> None:
    async with serving(tmp_path, max_calls=2) as world:  # and four connections
        idle = [await world.knock() for _ in range(4)]
        for reader, writer in idle:
            writer.write(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer(reader))[0] == 200
        reader, writer = await world.knock()
        writer.write(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(reader))[0] == 200
        assert await ended(idle[0][0]) == b""
        idle[1][1].write(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(idle[1][0]))[0] == 200
        for _, each in (*idle, (reader, writer)):
            each.close()


async def test_connections_leave_descriptors_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda which: (8, hard))
        async with serving(tmp_path) as world:  # and four connections
            knocking = [await world.knock() for _ in range(5)]
            async with asyncio.timeout(PATIENCE_S):
                assert await ended(knocking[0][0]) == b""  # though no request has come on it
            for reader, writer in knocking[1:]:
                writer.write(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await answer(reader))[0] == 200
            for _, writer in knocking:
                writer.close()


async def test_more_requests_than_may_be_answered_at_a_time_are_refused_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, max_calls=1) as world:
        world.gate.shut = True
        waiting = asyncio.ensure_future(world.infer(step([1], start=True)))
        await arrived(world)
        status, told = await world.get("/v2")
        assert status == 503 and told["error"] == "expected at most 1 requests at a time, got one more"
        world.gate.open()
        assert (await waiting)[0] == 200
        assert (await world.get("/v2"))[0] == 200


async def test_who_does_not_read_its_answer_is_cut_off(tmp_path: Path) -> None:
    """The answer is too large for the buffers between, so that it has to be waited for."""
    async with serving(tmp_path, ["uint8"], slow_reader_timeout_s=0.3, max_message_bytes=2**26) as world:
        size = 2**25
        header = {
            "inputs": [
                {"name": "x", "datatype": "UINT8", "shape": [1, size], "parameters": {"binary_data_size": size}}
            ],
            "parameters": {"binary_data_output": True},
        }
        text = json.dumps(header).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port, limit=1)
        path = "/v2/models/same-uint8/infer"
        writer.write(post(text + bytes(size), path, inference_header_content_length=str(len(text))))
        with pytest.raises(ValueError, match="limit"):  # the head has come; the rest waits
            await reader.readline()
        await settled(world)  # though not one byte of the rest is read
        assert (await world.get("/v2/health/live"))[0] == 200
        writer.close()


async def test_the_service_ends_when_what_it_has_begun_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        world.gate.shut = True
        waiting = asyncio.ensure_future(world.infer(step([1], start=True)))
        await arrived(world)
        other, writer = await world.knock()
        stopping = asyncio.ensure_future(world.server.stop())
        writer.write(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await answer(other) == (400, {"ready": False})
        status, told = await world.infer(step([1], 2, start=True))
        assert status == 503 and told["error"].startswith("Server is stopping")
        assert not stopping.done()
        world.gate.open()
        assert output((await waiting)[1], "total") == [INITIAL_TOTAL + 1]
        assert await asyncio.wait_for(stopping, PATIENCE_S) is True
        assert await ended(other) == b""
        with pytest.raises(OSError):
            await world.knock()
        writer.close()


async def test_a_running_sequence_may_come_to_its_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        await world.infer(step([1], start=True))
        stopping = asyncio.ensure_future(world.server.stop())
        async with asyncio.timeout(PATIENCE_S):
            while (await world.get("/v2/health/ready"))[0] == 200:
                pass
        assert (await world.infer(step([1], 2, start=True)))[0] == 503
        assert output((await world.infer(step([2])))[1], "total") == [INITIAL_TOTAL + 3]
        assert output((await world.infer(step([3], end=True)))[1], "total") == [INITIAL_TOTAL + 6]
        assert await asyncio.wait_for(stopping, PATIENCE_S) is True


async def test_a_sequence_that_nobody_goes_on_with_holds_nobody_up(tmp_path: Path) -> None:
    async with serving(tmp_path, drain_timeout_s=10 * PATIENCE_S, drain_idle_s=0.05) as world:
        await world.infer(step([1], start=True))
        assert await asyncio.wait_for(world.server.stop(), PATIENCE_S) is True


async def test_what_takes_longer_than_the_end_may_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path, drain_timeout_s=0.05) as world:
        world.gate.shut = True
        waiting = asyncio.ensure_future(world.infer(step([1], start=True)))
        await arrived(world)
        assert await asyncio.wait_for(world.server.stop(), PATIENCE_S) is False
        status, told = await waiting
        assert status == 503 and told["error"] == "the service shut down before the answer was ready"
        assert world.gate.cancelled


async def test_a_second_server_on_the_port_is_an_error(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        settings = world.server._settings.model_copy(update={"http_port": world.port})
        other = server_module.HttpServer(settings, world.core, world.regions)
        with pytest.raises(OSError, match=f"127.0.0.1:{world.port}: expected an address to listen on"):
            await other.start()
        await other.stop(linger_s=0)


async def test_no_connection_is_remembered(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        for _ in range(3):
            reader, writer = await world.knock()
            writer.write(b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await answer(reader)
            assert await ended(reader) == b""
            writer.close()
        connections = world.server._connections
        assert not connections.state.connections and not connections.idle


async def test_tls(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=carryover.test", "-addext", "subjectAltName=DNS:carryover.test"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, "req", "-x509", *made, *names, *files], check=True, capture_output=True)
    async with serving(tmp_path, tls_certificate=certificate, tls_private_key=key) as world:
        trust = ssl.create_default_context(cafile=str(certificate))
        async with world.session.get(
            f"https://{world.url}/v2/health/live", ssl=trust, server_hostname="carryover.test"
        ) as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await world.get("/v2/health/live")
        settings = world.server._settings.model_copy(update={"tls_certificate": tmp_path / "none.pem"})
        with pytest.raises(OSError, match=r"expected PEM files for TLS in .*none\.pem"):
            await server_module.HttpServer(settings, world.core, world.regions).start()
