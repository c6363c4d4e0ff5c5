# mypy: disable-error-code="import-not-found, untyped-decorator, attr-defined"
"""Ray Serve: one replica with `serve.batch`, tuned for throughput and spoken to without the proxy.

It listens on all interfaces.
"""

import asyncio
import os
import secrets
import signal
import struct
import tempfile
from typing import Any

os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"  # before the import, which is when it counts
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray writes one into the home folder

import grpc
import numpy as np
import ray
from google.protobuf.wrappers_pb2 import BytesValue
from ray import serve
from ray.serve.config import gRPCOptions

from bench.peers.options import read_options
from bench.peers.table import StateTable

SERVICE = "peer.Peer"


def add_peer_to_server(servicer: Any, server: Any) -> None:
    """What generated code would be for `rpc Step(BytesValue) returns (BytesValue)`."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Step,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Step": handler}),))


@serve.deployment(max_ongoing_requests=1024, num_replicas=1, ray_actor_options={"num_cpus": 1})
class Peer:
    """One process with the table."""

    def __init__(self, graph: str, threads: int, max_batch: int, wait_s: float) -> None:
        self.table = StateTable(graph, threads)
        self._step.set_max_batch_size(max_batch)
        self._step.set_batch_wait_timeout_s(wait_s)

    @serve.batch
    async def _step(self, requests: list[bytes]) -> list[bytes]:
        batch = np.frombuffer(b"".join(requests), np.int64)
        answers = await asyncio.to_thread(self.table.step, batch)
        return [struct.pack("<2f", *answer) for answer in answers.tolist()]

    async def Step(self, request: BytesValue) -> BytesValue:
        return BytesValue(value=await self._step(request.value))


def main(folder: str) -> None:
    options = read_options()
    # The replica's own port, which spares the hop over the proxy (about half of the rate).
    for protocol, port in (("GRPC", options.port), ("HTTP", options.port + 1)):
        os.environ[f"RAY_SERVE_DIRECT_INGRESS_MIN_{protocol}_PORT"] = str(port)
        os.environ[f"RAY_SERVE_DIRECT_INGRESS_MAX_{protocol}_PORT"] = str(port + 1)  # the first that it may not use
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        _temp_dir=folder,
    )
    serve.start(
        http_options={"location": "NoServer"},
        grpc_options=gRPCOptions(
            port=options.port + 2, grpc_servicer_functions=[f"{__spec__.name}.add_peer_to_server"]
        ),
    )
    serve.run(Peer.bind(options.graph, options.threads, options.max_batch, options.wait_ms / 1e3), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        main(folder)
