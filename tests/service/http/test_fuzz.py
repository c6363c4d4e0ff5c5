"""Requests with random damage: each gets an answer that is not our fault, or its connection's end; nothing is left."""

import asyncio
import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest

from service.http import server as server_module
from tests.service.http.world import PATIENCE_S, World, output, serving, step
from tests.service.tensor_models import INITIAL_TOTAL

NUM_CASES = 400
WORDS = (
    b"\r\n",
    b"\0",
    b"\xff\xff",
    b"{",
    b"]",
    b'"',
    b"-1",
    b"1e999",
    b"null",
    b"99999999999999999999",
    b"[" * 50,
    b"",
)


def original() -> tuple[bytes, bytes]:
    """The head and the body of a good request with both kinds of inputs."""
    asked = step([2.0], 5, start=True, end=True)
    data = np.array([3.0], "<f4").tobytes()
    asked["inputs"][0] = {
        "name": "values", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": len(data)}
    }  # fmt: skip
    text = json.dumps(asked).encode()
    head = f"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(text)}\r\n"
    return head.encode(), text + data


def damaged(generator: random.Random) -> bytes:
    head, body = original()
    parts = [bytearray(head), bytearray(body)]
    for _ in range(generator.choice([1, 1, 2, 5])):
        part = parts[generator.random() < 0.7]
        at = generator.randrange(len(part))
        kind = generator.randrange(4)
        if kind == 0:
            part[at] = generator.randrange(256)
        elif kind == 1:
            del part[at : at + generator.choice([1, 4, 20])]
        elif kind == 2:
            part[at:at] = generator.choice(WORDS)
        else:
            part[at : at + generator.choice([1, 4])] = generator.choice(WORDS)
    head, body = bytes(parts[0]), bytes(parts[1])
    return head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body


async def told(world: World, request: bytes) -> int:
    """The status that a request gets; 0: its connection ended without one."""
    reader, writer = await world.knock()
    writer.write(request)
    async with asyncio.timeout(PATIENCE_S):
        try:
            answer = await reader.read(-1)
        except ConnectionResetError:
            answer = b""
    writer.close()
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


@pytest.mark.slow
async def test_damage_is_never_our_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT_S", 0.2)
    generator = random.Random(1)
    async with serving(tmp_path, slow_reader_timeout_s=0.2) as world:
        statuses = []
        for _ in range(NUM_CASES):
            request = damaged(generator)
            status = await told(world, request)
            assert status < 500 or status == 501, request
            statuses.append(status)
        assert {200, 400, 404} <= set(statuses)
        status, answer = await world.infer(step([4.0], 6, start=True, end=True))
        assert status == 200 and output(answer, "total") == [INITIAL_TOTAL + 4]
        async with asyncio.timeout(PATIENCE_S):
            while world.server.in_flight:
                await asyncio.sleep(0)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
