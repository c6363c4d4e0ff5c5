"""What the client repeats by itself, and encrypted connections."""

import asyncio
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from carryover.client.aio import AsyncClient
from carryover.client.channel import Tls
from carryover.client.errors import InternalError, Unavailable
from carryover.client.sync import Client
from protos.carryover.v1 import carryover_pb2 as pb
from service.rpc.server import SERVICE
from tests.service.rpc.world import serving

ANSWERS = {
    "Tag": pb.TagResponse(),
    "Score": pb.ScoreResponse(),
    "ListModels": pb.ListModelsResponse(),
    "GetModel": pb.Model(),
}


@asynccontextmanager
async def flaky(failures: int, code: grpc.StatusCode) -> AsyncIterator[tuple[str, Counter[str]]]:
    """A server whose every method fails a number of times before it answers; counts the attempts of each."""
    attempts: Counter[str] = Counter()

    def handler(name: str, streams: bool) -> Any:
        async def call(request: bytes, context: Any) -> bytes:
            attempts[name] += 1
            if attempts[name] <= failures:
                await context.abort(code, "not now")
            return ANSWERS[name].SerializeToString() if name in ANSWERS else b""

        return (grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler)(call)

    server = grpc.aio.server()
    methods = {m.name: handler(m.name, m.server_streaming) for m in SERVICE.methods if not m.client_streaming}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", attempts
    finally:
        await server.stop(0)


async def call_all(client: AsyncClient) -> list[object]:
    calls = (client.tag("m", [["a"]]), client.score("m", ["a"]), client.models(), client.model("m"))
    return list(await asyncio.gather(*calls, return_exceptions=True))


async def test_calls_that_change_nothing_are_repeated_when_the_server_is_unavailable() -> None:
    async with flaky(1, grpc.StatusCode.UNAVAILABLE) as (address, attempts), AsyncClient(address) as client:
        assert not [got for got in await call_all(client) if isinstance(got, BaseException)]
        assert attempts == {"Tag": 2, "Score": 2, "ListModels": 2, "GetModel": 2}
        attempts.clear()

        def act() -> None:
            with Client(address) as blocked:
                assert blocked.tag("m", [["a"]]) == []

        await asyncio.to_thread(act)
        assert attempts == {"Tag": 2}


async def test_streams_are_never_repeated() -> None:
    async with flaky(1, grpc.StatusCode.UNAVAILABLE) as (address, attempts), AsyncClient(address) as client:
        for stream in (client.transduce("m", "a"), client.generate("m")):
            with pytest.raises(Unavailable, match="not now"):
                await stream.finish()
        assert attempts == {"Transduce": 1, "Generate": 1}


async def test_other_failures_are_not_repeated() -> None:
    async with flaky(1, grpc.StatusCode.INTERNAL) as (address, attempts), AsyncClient(address) as client:
        assert all(isinstance(got, InternalError) for got in await call_all(client))
        assert set(attempts.values()) == {1}


@pytest.mark.slow
async def test_repeating_has_an_end() -> None:
    async with flaky(99, grpc.StatusCode.UNAVAILABLE) as (address, attempts), AsyncClient(address) as client:
        with pytest.raises(Unavailable):
            await client.models()
        assert attempts == {"ListModels": 4}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new certificate of `carryover.test` and its key, cert.pem and key.pem."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=carryover.test", "-addext", "subjectAltName=DNS:carryover.test"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([openssl, "req", "-x509", *made, *names, *files], check=True, capture_output=True)
    return folder


async def test_tls_connects_those_who_trust_the_certificate_and_no_others(certificate: Path) -> None:
    files = {"tls_certificate": certificate / "cert.pem", "tls_private_key": certificate / "key.pem"}
    trusted = (certificate / "cert.pem").read_bytes()
    async with serving(drain_timeout_s=0.05, **files) as world:
        tls = Tls(root_certificates=trusted, server_name="carryover.test")
        async with AsyncClient(world.address, tls=tls) as client:
            assert await client.is_serving()

        def act() -> bool:
            with Client(world.address, tls=tls) as blocked:
                return blocked.is_serving()

        assert await asyncio.to_thread(act)
        for stranger in (None, Tls(root_certificates=trusted), Tls(server_name="carryover.test")):
            async with AsyncClient(world.address, tls=stranger, timeout_s=60) as client:
                with pytest.raises(Unavailable):
                    await client.is_serving()


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf"), 1e30])
async def test_a_timeout_that_bounds_nothing_is_refused(timeout_s: float) -> None:
    async with serving() as world:
        with pytest.raises(ValueError, match="timeout_s: expected more than 0"):
            AsyncClient(world.address, timeout_s=timeout_s)
        async with AsyncClient(world.address) as client:
            with pytest.raises(ValueError, match="timeout_s"):
                await client.models(timeout_s=timeout_s)
            async with client.session("lm") as session:
                with pytest.raises(ValueError, match="timeout_s"):
                    await session.step(token_ids=[5], timeout_s=timeout_s)
        with Client(world.address) as blocking, pytest.raises(ValueError, match="timeout_s"):
            blocking.models(timeout_s=timeout_s)
