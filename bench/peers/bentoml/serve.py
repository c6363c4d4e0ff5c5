# mypy: disable-error-code="import-not-found, untyped-decorator"
"""BentoML: HTTP, adaptive batching of a batchable API, one worker."""

import os
import sys

import bentoml
import numpy as np

from bench.peers.options import read_options
from bench.peers.table import StateTable

GRAPH, THREADS, MAX_BATCH, WAIT_MS = "PEER_GRAPH", "PEER_THREADS", "PEER_MAX_BATCH", "PEER_WAIT_MS"


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Step:
    """One process with the table."""

    def __init__(self) -> None:
        self.table = StateTable(os.environ[GRAPH], int(os.environ[THREADS]))

    @bentoml.api(
        route="/step",
        batchable=True,
        batch_dim=(0, 0),
        max_batch_size=int(os.environ.get(MAX_BATCH, "2")),
        max_latency_ms=int(float(os.environ.get(WAIT_MS, "1"))),
    )
    def step(self, requests: np.ndarray) -> np.ndarray:
        return self.table.step(requests)


if __name__ == "__main__":
    options = read_options()
    os.environ[GRAPH], os.environ[THREADS] = options.graph, str(options.threads)
    os.environ[MAX_BATCH], os.environ[WAIT_MS] = str(options.max_batch), str(options.wait_ms)
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    command = [sys.executable, "-m", "bentoml", "serve", "bench.peers.bentoml.serve:Step"]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(options.port)])
