# mypy: disable-error-code="import-not-found, misc"
"""LitServe: HTTP, one worker process with the table, its batching loop in front, ZeroMQ between (`fast_queue`)."""

import litserve
import numpy as np

from bench.peers.options import read_options
from bench.peers.table import StateTable


class StepAPI(litserve.LitAPI):
    """Batches of what arrived; see https://lightning.ai/docs/litserve/features/batching."""

    def __init__(self, graph: str, threads: int, max_batch: int, wait_s: float) -> None:
        super().__init__(max_batch_size=max_batch, batch_timeout=wait_s, api_path="/step")
        self.graph, self.threads = graph, threads

    def setup(self, device: str) -> None:
        self.table = StateTable(self.graph, self.threads)

    def decode_request(self, request: dict[str, list[int]]) -> list[int]:
        return request["request"]

    def batch(self, inputs: list[list[int]]) -> np.ndarray:
        return np.array(inputs, np.int64)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.table.step(x)

    def unbatch(self, output: np.ndarray) -> list[list[float]]:
        return list(output.tolist())

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"answer": output}


if __name__ == "__main__":
    options = read_options()
    api = StepAPI(options.graph, options.threads, options.max_batch, options.wait_ms / 1e3)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True, timeout=False)
    server.run(
        host="127.0.0.1",
        port=options.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
