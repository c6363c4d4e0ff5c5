"""Requests and answers of HTTP as bytes, for callers that a client would not be."""

import asyncio
import json
from typing import Any

from tests.service.http.world import PATIENCE_S, SUM, World

Reader = asyncio.StreamReader


def post(body: Any, path: str = f"/v2/models/{SUM}/infer", **headers: str) -> bytes:
    """The bytes of a request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    if "transfer_encoding" not in headers and "content_length" not in headers:
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode() + data


async def answer(reader: Reader) -> tuple[int, Any]:
    """One answer, and its JSON."""
    async with asyncio.timeout(PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        (length,) = (int(line.partition(":")[2]) for line in head if line.startswith("content-length:"))
        data = await reader.readexactly(length)
    return int(head[0].split()[1]), json.loads(data) if data else None


async def ended(reader: Reader) -> bytes:
    """What comes until the other side ends the connection."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            return await reader.read(-1)
        except ConnectionResetError:
            return b""


async def arrived(world: World) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await world.gate.arrived.wait()
    world.gate.arrived.clear()


async def cancelled(world: World) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await world.gate.told.wait()


async def settled(world: World) -> None:
    """Wait until no request is being answered: the last piece of an answer goes out before its end is counted."""
    async with asyncio.timeout(PATIENCE_S):
        while world.server.in_flight:
            await asyncio.sleep(0)
