"""A plain grpc.aio server that runs each request alone."""

import struct

import grpc.aio
import numpy as np
import uvloop

from bench.peers.formats import fields
from bench.peers.options import read_options
from bench.peers.table import StateTable


async def main() -> None:
    options = read_options()
    table = StateTable(options.graph, options.threads)

    async def step(request: bytes, context: object) -> bytes:
        ((_, packed),) = fields(request)
        (answer,) = table.step(np.frombuffer(packed, np.int64)).tolist()
        return b"\x0a\x08" + struct.pack("<2f", *answer)

    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Step": grpc.unary_unary_rpc_method_handler(step)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peer.Peer", handlers),))
    server.add_insecure_port(f"127.0.0.1:{options.port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
