"""The peers: how each is started and spoken to."""

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.peers.formats import JSON_OBJECT, JSON_ROWS, OIP, PACKED, SEQUENCES, Format

ENVIRONMENTS = Path(__file__).parents[2] / "build" / "peers"  # git ignores it
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Peer:
    """One server.

    Args:
        name: On the command line.
        title: With its version, for tables.
        module: What starts it.
        carrier: Workload of the load generator: `grpc` and `http` send one step a call, `sessions` speaks our stream.
        path: gRPC method or HTTP path; empty for `sessions`.
        format: Of requests and responses; None for `sessions`.
        environment: Folder under `bench/peers` with its install.sh, and under `build/peers` once installed; empty for
            the service itself.
        threads: Intra-op threads of ONNX Runtime.
        max_batch: Most requests in a batch.
        wait_ms: Longest that a batch waits for more, or what the peer's own setting means by it, in ms.
        everywhere: Whether it listens on all interfaces and has no setting for it.
    """

    name: str
    title: str
    module: str
    carrier: str
    path: str
    format: Format | None
    environment: str
    threads: int = 2
    max_batch: int = 64
    wait_ms: float = 1.0
    everywhere: bool = False

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        if not self.environment:
            return Path(sys.executable)
        return ENVIRONMENTS / self.environment / "bin" / "python"


OURS = Peer("service", "Carryover", "", "sessions", "", None, "")
PEERS = (
    Peer("alone", "grpc.aio, each alone", "bench.peers.plain.alone", "grpc", "/peer.Peer/Step", PACKED, "plain"),
    Peer("stream", "grpc.aio stream, batches", "bench.peers.plain.stream", "sessions", "", None, "plain"),
    Peer(
        "mlserver", "MLServer 1.7.1", "bench.peers.mlserver.serve", "grpc", MODEL_INFER, OIP, "mlserver", 1, wait_ms=20
    ),
    Peer("kserve", "KServe 0.21.0", "bench.peers.kserve.serve", "grpc", MODEL_INFER, OIP, "kserve", everywhere=True),
    Peer("ray", "Ray Serve 2.60.0", "bench.peers.ray.serve", "grpc", "/peer.Peer/Step", PACKED, "ray", everywhere=True),
    Peer("litserve", "LitServe 0.2.19", "bench.peers.litserve.serve", "http", "/step", JSON_OBJECT, "litserve"),
    # Its wait is the latency that it must not foresee to exceed, or it refuses; it finds the real wait by itself.
    Peer(
        "bentoml", "BentoML 1.4.40", "bench.peers.bentoml.serve", "http", "/step", JSON_ROWS, "bentoml", wait_ms=10_000
    ),
    Peer("pytriton", "PyTriton 0.7.0", "bench.peers.pytriton.serve", "grpc", MODEL_INFER, OIP, "pytriton"),
    Peer("modelinfer", "Carryover, ModelInfer", "", "grpc", MODEL_INFER, SEQUENCES, ""),
)
