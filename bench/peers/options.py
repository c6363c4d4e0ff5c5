"""The command line of every peer's serve.py. Imported inside the peers' environments."""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What a peer is started with.

    Args:
        graph: Path of the graph that `bench.peers.graph` wrote.
        port: Where to listen, on 127.0.0.1.
        threads: Intra-op threads of ONNX Runtime.
        max_batch: Most requests in a batch.
        wait_ms: Longest that a batch waits for more requests, in ms.
    """

    graph: str
    port: int
    threads: int
    max_batch: int
    wait_ms: float


def read_options() -> Options:
    """Read sys.argv."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--graph", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-batch", type=int, required=True)
    parser.add_argument("--wait-ms", type=float, required=True)
    return Options(**vars(parser.parse_args()))
