"""A server with the accumulator and the identity on fake engines, and how to call it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from protos.inference import grpc_service_pb2 as pb
from protos.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from service.oip.core import Core
from service.oip.shared_memory import Regions
from service.rpc.server import RpcServer
from service.settings import Settings
from tests.service.oip.fake_engine import FakeEngine
from tests.service.oip.world import IDLE_TIMEOUT_S, make_world
from tests.service.oip.world import World as CoreWorld


@dataclass
class World:
    """A running server.

    Args:
        core: What is behind it.
        server: In this process.
        port: On loopback.
        stub: Any call; typed as Any because the generated stub knows the blocking calls only.
    """

    core: CoreWorld
    server: RpcServer
    port: int
    stub: Any

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def sums(self) -> FakeEngine:
        """The engine of the accumulator."""
        return self.core.engines["sums", 1]

    @property
    def same(self) -> FakeEngine:
        """The engine of the identity."""
        return self.core.engines["same", 1]


@asynccontextmanager
async def serving(shared_memory: Path | None = None, **settings: Any) -> AsyncIterator[World]:
    """Serve; `shared_memory` is the folder of the system's objects."""
    chosen = Settings.model_validate({"port": 0, "drain_timeout_s": 0.05} | settings)
    core = make_world(asyncio.get_running_loop())
    # that of the tests of the core has small bounds
    core.core = Core(core.models, core.control, version="1.2.3", sequence_idle_timeout_s=IDLE_TIMEOUT_S)
    regions = None if shared_memory is None else Regions(True, shared_memory)
    server = RpcServer(chosen, core.models, core.core, regions)
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield World(core, server, port, GRPCInferenceServiceStub(channel))
        finally:
            await server.stop(linger_s=0)


def step(
    sequence_id: int | str, *values: float, id: str = "", start: bool = False, end: bool = False, **more: Any
) -> pb.ModelInferRequest:
    """A step of a sequence of the accumulator."""
    request = pb.ModelInferRequest(model_name="sums", id=id, **more)
    add_input(request, "values", np.array([values], np.float32), "FP32")
    add_input(request, "scale", np.array([1], np.float32), "FP32")
    if isinstance(sequence_id, int):
        request.parameters["sequence_id"].int64_param = sequence_id
    else:
        request.parameters["sequence_id"].string_param = sequence_id
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    return request


def run(values: Sequence[float], id: str = "", **more: Any) -> pb.ModelInferRequest:
    """A request to the identity, of three values."""
    request = pb.ModelInferRequest(model_name="same", id=id, **more)
    add_input(request, "x", np.array([values], np.float32), "FP32")
    return request


def add_input(request: pb.ModelInferRequest, name: str, array: Any, datatype: str) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    request.raw_input_contents.append(array.tobytes())


def floats(response: pb.ModelInferResponse, output: int = 0) -> list[float]:
    """The values of an output of type FP32."""
    assert response.outputs[output].datatype == "FP32"
    values: list[float] = np.frombuffer(response.raw_output_contents[output], "<f4").tolist()
    return values


async def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    """Read a stream that has nothing more to give but its error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value.code(), str(caught.value.details())
