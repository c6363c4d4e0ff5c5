"""The HTTP door in front of real engines with tiny models, and how to knock at it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from export.manifest import DType, Manifest
from service.bridge import Bridge
from service.engine.engine import Engine
from service.engine.interface import AnyRequest, Cancelled, EngineStats, Publish, RequestId, RunStats, StepTensors
from service.engine.limits import EngineLimits
from service.http.server import HttpServer
from service.models import Limits, LiveModel, Models
from service.oip.core import Core
from service.oip.shared_memory import Regions
from service.runtime.runner import Runner
from service.settings import Settings
from tests.service.engine.harness import open_tiny
from tests.service.oip.world import Entry, FakeControl
from tests.service.tensor_models import write_accumulator, write_identity

PATIENCE_S = 60.0
SUM = "sum"


class Gate:
    """An engine's door that holds back steps while it is shut."""

    def __init__(self, runner: Runner, publish: Publish) -> None:
        self._publish = publish
        self.engine = Engine(runner, EngineLimits(session_slots=16, max_sessions=32), publish)
        self.shut = False
        self.held: dict[RequestId, AnyRequest] = {}
        self.cancelled: list[RequestId] = []
        self.arrived = asyncio.Event()
        self.told = asyncio.Event()  # of a cancellation

    def submit(self, request: AnyRequest) -> None:
        if self.shut and isinstance(request, StepTensors):
            self.held[request.id] = request
            self.arrived.set()
        else:
            self.engine.submit(request)

    def cancel(self, request: RequestId) -> None:
        self.cancelled.append(request)
        self.told.set()
        if self.held.pop(request, None) is not None:
            self._publish([Cancelled(request)])
        else:
            self.engine.cancel(request)

    def open(self) -> None:
        self.shut = False
        for request in self.held.values():
            self.engine.submit(request)
        self.held.clear()

    def has_begun(self, request: RequestId) -> bool:
        return request not in self.held and self.engine.has_begun(request)

    def stats(self) -> EngineStats:
        return self.engine.stats()

    def run_stats(self) -> RunStats:
        return self.engine.run_stats()


@dataclass
class World:
    """A server that answers.

    Args:
        port: Where.
        server: Itself.
        core: Behind it.
        gate: Of the accumulator.
        control: Of the repository.
        session: Of a client.
    """

    port: int
    server: HttpServer
    core: Core
    gate: Gate
    control: FakeControl
    regions: Regions
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(f"http://{self.url}{path}") as response:
            return response.status, await response.json()

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        how: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.session.post(f"http://{self.url}{path}", headers=names, **how) as response:
            data = await response.read()
            return response.status, await response.json() if data else None

    async def infer(self, body: Any, model: str = SUM, **headers: str) -> tuple[int, Any]:
        return await self.post(f"/v2/models/{model}/infer", body, **headers)

    async def knock(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection without a client."""
        return await asyncio.open_connection("127.0.0.1", self.port)


def step(values: list[float], sequence_id: int | str = 1, **more: Any) -> dict[str, Any]:
    """A step of the accumulator: `start` and `end` are the sequence's, everything else goes in as it is."""
    parameters = {"sequence_id": sequence_id, **more.pop("parameters", {})}
    for name in ("start", "end"):
        if name in more:
            parameters[f"sequence_{name}"] = more.pop(name)
    inputs = [
        {"name": "values", "datatype": "FP32", "shape": [1, len(values)], "data": values},
        {"name": "scale", "datatype": "FP32", "shape": [1], "data": [1.0]},
    ]
    return {"inputs": inputs, "parameters": parameters, **more}


def output(answer: Any, name: str) -> list[Any]:
    (found,) = (tensor["data"] for tensor in answer["outputs"] if tensor["name"] == name)
    assert isinstance(found, list)
    return found


@asynccontextmanager
async def serving(folder: Path, dtypes: Sequence[DType] = (), **changes: Any) -> AsyncIterator[World]:
    """Serve the accumulator as `sum`, and an identity of each type as `same-<type>`.

    Args:
        folder: An empty one.
        dtypes: Of the identities.
        changes: Of the settings.
    """
    settings = Settings(http_port=0, **{"num_slots": 64, **changes})
    manifests: dict[str, tuple[Path, Manifest]] = {}
    for name, write in {SUM: write_accumulator, **{f"same-{dtype}": _identity(dtype) for dtype in dtypes}}.items():
        (folder / name).mkdir()
        manifests[name] = folder / name, write(folder / name).model_copy(update={"name": name})
    gates: list[Gate] = []
    runners: list[Runner] = []
    loop = asyncio.get_running_loop()

    def live(path: Path, manifest: Manifest) -> LiveModel:
        runner = open_tiny(path, manifest)
        runners.append(runner)

        def connect(publish: Publish) -> Gate:
            gates.append(Gate(runner, publish))
            gates[-1].engine.start()
            return gates[-1]

        limits = Limits.of(manifest, settings, 16)
        return LiveModel(
            manifest, {}, Bridge(connect, loop), limits, runner.provider, runner.state_bytes, max_batch_rows=8
        )

    models = Models([live(path, manifest) for path, manifest in manifests.values()])
    control = FakeControl(models, [Entry("broken", 2, "UNAVAILABLE", "expected a graph, got none")])
    regions = Regions(settings.shares_memory)
    core = Core(models, control, version="0", sequence_idle_timeout_s=60.0, shared_memory=settings.shares_memory)
    server = HttpServer(settings, core, regions)
    try:
        port = await server.start()
        async with aiohttp.ClientSession() as session:
            yield World(port, server, core, gates[0], control, regions, session)
        await server.stop(linger_s=0)
    finally:
        for gate, runner in zip(gates, runners, strict=True):
            await asyncio.to_thread(gate.engine.close)
            runner.close()


def _identity(dtype: DType) -> Any:
    return lambda folder: write_identity(folder, dtype)
