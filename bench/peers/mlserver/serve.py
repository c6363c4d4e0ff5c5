# mypy: disable-error-code="import-not-found, misc"
"""MLServer: Open Inference Protocol over gRPC, adaptive batching."""

import asyncio

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from bench.peers.options import read_options
from bench.peers.table import StateTable


class StepModel(MLModel):
    """Steps what the adaptive batcher put together, in a thread: the next batch gathers meanwhile."""

    async def load(self) -> bool:
        extra = self.settings.parameters.extra
        self.table = StateTable(extra["graph"], extra["threads"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (tensor,) = payload.inputs
        requests = np.array(tensor.data.root, np.int64).reshape(tensor.shape)
        answers = await asyncio.to_thread(self.table.step, requests)
        output = ResponseOutput(
            name="answer", datatype="FP32", shape=list(answers.shape), data=answers.ravel().tolist()
        )
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    options = read_options()
    settings = Settings(
        host="127.0.0.1",
        http_port=options.port + 1,
        grpc_port=options.port,
        metrics_endpoint=None,
        parallel_workers=0,  # the table is in one process; a worker process would only add a hop
        debug=False,
    )
    model = ModelSettings(
        name="step",
        implementation=StepModel,
        max_batch_size=options.max_batch,
        max_batch_time=options.wait_ms / 1e3,
        parameters=ModelParameters(extra={"graph": options.graph, "threads": options.threads}),
    )
    server = MLServer(settings)
    await server.start([model])


if __name__ == "__main__":
    import uvloop

    uvloop.install()
    asyncio.run(main())
