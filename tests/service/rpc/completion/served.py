"""A server of plain bytes on whatever loop runs, and a channel to it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

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
