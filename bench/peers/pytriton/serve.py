# mypy: disable-error-code="import-not-found, untyped-decorator"
"""PyTriton: Triton's gRPC front end and dynamic batcher before a Python function in this process."""

import os
import sys
import sysconfig

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from bench.peers.options import read_options
from bench.peers.table import StateTable

if __name__ == "__main__":
    own = str(sysconfig.get_config_var("LIBDIR"))
    if own not in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        # Triton's stub loads whichever libpython it finds; it has to be the one of this interpreter's standard library.
        os.environ["LD_LIBRARY_PATH"] = f"{own}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
        os.execv(sys.executable, [sys.executable, "-m", "bench.peers.pytriton.serve", *sys.argv[1:]])
    options = read_options()
    table = StateTable(options.graph, options.threads)

    @batch
    def step(request: np.ndarray) -> dict[str, np.ndarray]:
        return {"answer": table.step(request)}

    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=options.port,
        http_address="127.0.0.1",
        http_port=options.port + 1,
        allow_metrics=False,
        log_verbose=0,
    )
    batcher = DynamicBatcher(max_queue_delay_microseconds=int(options.wait_ms * 1e3))
    with Triton(config=config) as triton:
        triton.bind(
            model_name="step",
            infer_func=step,
            inputs=[Tensor(name="request", dtype=np.int64, shape=(3,))],
            outputs=[Tensor(name="answer", dtype=np.float32, shape=(2,))],
            config=ModelConfig(batching=True, max_batch_size=options.max_batch, batcher=batcher),
            strict=False,
        )
        triton.serve()
