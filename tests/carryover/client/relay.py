"""A way to a server that can be cut, taken away and given back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.service.rpc.world import World, serving


class Relay:
    """A TCP relay to a server that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = 0
        self.num_connections = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        there = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, there[1]]

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()

        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[World, Relay]]:
    async with serving(drain_timeout_s=0.05) as world:
        relay = Relay(world.port)
        await relay.start()
        try:
            yield world, relay
        finally:
            await relay.stop()
