"""HTTP on the loop that waits for gRPC."""

import asyncio
import socket

from service.http.server import _listen
from service.rpc.completion.loop import CompletionLoop


def test_answers_over_http_are_not_held_back() -> None:
    """Without the option an answer in two writes waits for the caller's delayed acknowledgement, some 40 ms."""

    async def accept() -> int:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[int] = loop.create_future()

        class Connection(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                own = transport.get_extra_info("socket")
                accepted.set_result(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                transport.close()

        server = await loop.create_server(Connection, sock=_listen("127.0.0.1", 0))
        async with server:
            with socket.create_connection(server.sockets[0].getsockname()):
                async with asyncio.timeout(30):
                    return await accepted

    with asyncio.Runner(loop_factory=CompletionLoop) as runner:
        assert runner.run(accept()) == 1
