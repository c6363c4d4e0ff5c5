# mypy: disable-error-code="import-not-found, misc"
"""KServe's Python server: Open Inference Protocol over gRPC.

It batches nothing, for its batcher is a sidecar of the cluster; and it listens on all interfaces.
"""

import logging

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from bench.peers.options import read_options
from bench.peers.table import StateTable


class StepModel(Model):
    """Steps what one request holds."""

    def __init__(self, graph: str, threads: int) -> None:
        super().__init__("step")
        self.table = StateTable(graph, threads)
        self.ready = True

    def predict(self, payload: InferRequest, headers: dict[str, str] | None = None, **_: object) -> InferResponse:
        answers = self.table.step(payload.inputs[0].as_numpy())
        output = InferOutput("answer", list(answers.shape), "FP32")
        output.set_data_from_numpy(answers, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    options = read_options()
    server = ModelServer(
        http_port=options.port + 1,
        grpc_port=options.port,
        workers=1,
        enable_docs_url=False,
        enable_latency_logging=False,
        access_log_format="",
    )
    logging.getLogger("kserve").setLevel(logging.WARNING)  # it logs every call
    server.start([StepModel(options.graph, options.threads)])
