"""A core with models on fake engines, and requests to it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from export.manifest import DType, FileEntry, GraphKind, GraphSpec, ImportedSpec, Manifest, StateSpec, TensorSpec
from service.bridge import Bridge
from service.lifecycle.errors import ChangeError, WrongToken
from service.models import Limits, LiveModel, Models
from service.oip.control import IndexEntry
from service.oip.core import MAX_INPUT_BYTES, Core
from service.oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from service.settings import Settings
from tests.service.oip.fake_engine import FakeEngine

IDLE_TIMEOUT_S = 7.5


def spec(name: str, dtype: DType, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def make_manifest(
    name: str,
    kind: GraphKind,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    states: tuple[StateSpec, ...] = (),
    version: int = 1,
    max_rows: int | None = None,
) -> Manifest:
    """A manifest of the task `tensors` that no bundle backs."""
    return Manifest(
        name=name,
        version=version,
        task="tensors",
        precision="fp32",
        graphs={kind: GraphSpec(file="x.onnx", inputs=tuple(inputs), outputs=tuple(outputs))},
        states=states,
        tokenizers={},
        imported=ImportedSpec(original="x.onnx", max_rows=max_rows),
        created="2026-01-01T00:00:00Z",
        files={"x.onnx": FileEntry(sha256="0" * 64, num_bytes=1)},
    )


def accumulator(version: int = 1, name: str = "sums") -> Manifest:
    """What the fake engine steps; `total` has its rows second in the original."""
    pools = (spec("total_pool", "float32", "N", 1), spec("count_pool", "int64", "N"))
    states = (
        StateSpec(name="total", dtype="float32", shape=(1,), batch_axis=1, pool_input="total_pool",
                  pool_output="total_pool_out", sequence_input="total_in", sequence_output="total_out"),
        StateSpec(name="count", dtype="int64", shape=(), pool_input="count_pool", pool_output="count_pool_out",
                  sequence_input="count_in", sequence_output="count_out"),
    )  # fmt: skip
    places = (spec("read_slots", "int64", "B"), spec("write_slots", "int64", "B"))
    pools_out = tuple(pool.model_copy(update={"name": f"{pool.name}_out"}) for pool in pools)
    return make_manifest(
        name,
        "step",
        (spec("values", "float32", "B", "D"), spec("scale", "float32"), *places, *pools),
        (spec("total", "float32", "B", 1), spec("count", "int64", "B"), *pools_out),
        states,
        version,
    )


def identity(dtype: DType = "float32", max_rows: int | None = 4) -> Manifest:
    """No state: x (B, 3) and again as y."""
    return make_manifest("same", "run", [spec("x", dtype, "B", 3)], [spec("y", dtype, "B", 3)], max_rows=max_rows)


class Entry(NamedTuple):
    """Of the fake repository's index."""

    name: str
    version: int
    state: str
    reason: str


@dataclass
class FakeControl:
    """A repository that writes down what it is asked.

    Args:
        models: That are served.
        others: What the index tells of besides.
        secret: The admin token; None: anybody may, without one too.
        failure: What loads and unloads end with.
    """

    models: Models
    others: list[Entry] = field(default_factory=list)
    secret: str | None = None
    failure: ChangeError | None = None
    calls: list[tuple[str, str, str | None]] = field(default_factory=list)

    def index(self, ready_only: bool = False) -> Sequence[IndexEntry]:
        ready = [Entry(model.manifest.name, model.manifest.version, "READY", "") for model in self.models]
        return ready if ready_only else sorted((*ready, *self.others))

    def authorise(self, token: str | None) -> None:
        if self.secret not in (None, token):
            raise WrongToken("none" if token is None else "another one")

    async def load(self, name: str, token: str | None) -> None:
        self._change("load", name, token)

    async def unload(self, name: str, token: str | None) -> None:
        self._change("unload", name, token)

    def _change(self, call: str, name: str, token: str | None) -> None:
        self.calls.append((call, name, token))
        if self.failure is not None:
            raise self.failure


@dataclass
class World:
    """A core and what is behind it."""

    core: Core
    models: Models
    control: FakeControl
    engines: dict[tuple[str, int], FakeEngine]

    @property
    def engine(self) -> FakeEngine:
        """That of the accumulator."""
        return self.engines["sums", 1]


def make_world(loop: Any, *manifests: Manifest, max_input_bytes: int = MAX_INPUT_BYTES, **settings: Any) -> World:
    """Serve models on fake engines; without any, the accumulator and the identity."""
    engines: dict[tuple[str, int], FakeEngine] = {}
    models = Models()
    for manifest in manifests or (accumulator(), identity()):
        bridge = Bridge(FakeEngine, loop)
        assert isinstance(bridge.engine, FakeEngine)
        engines[manifest.name, manifest.version] = bridge.engine
        limits = replace(Limits.of(manifest, Settings(**settings), 100), max_sessions=100)
        models.put(LiveModel(manifest, {}, bridge, limits, "CPUExecutionProvider", 4, max_batch_rows=16))
    control = FakeControl(models)
    core = Core(
        models, control, version="1.2.3", sequence_idle_timeout_s=IDLE_TIMEOUT_S, max_input_bytes=max_input_bytes
    )
    return World(core, models, control, engines)


def tensor(name: str, array: npt.ArrayLike, dtype: npt.DTypeLike = np.float32, datatype: str = "FP32") -> Tensor:
    return Tensor(name, datatype, np.asarray(array, dtype))


def step(
    sequence_id: int | str | None,
    values: npt.ArrayLike,
    *more: Tensor,
    start: bool = False,
    end: bool = False,
    outputs: Sequence[str] = (),
    model: str = "sums",
    version: str = "",
    caller: str = "",
    id: str = "",
    deadline_s: float | None = None,
    **parameters: bool | int | float | str,
) -> InferRequest:
    """A step of a sequence of the accumulator: values (D,), or (T, D) for several."""
    if sequence_id is not None:
        parameters |= {"sequence_id": sequence_id, "sequence_start": start, "sequence_end": end}
    return InferRequest(
        model,
        version,
        id,
        (tensor("values", np.asarray(values, np.float32)[None]), tensor("scale", 1.0), *more),
        tuple(map(RequestedOutput, outputs)),
        parameters,
        caller,
        deadline_s,
    )


def outputs_of(response: InferResponse) -> dict[str, Any]:
    """Outputs by name, as nested lists."""
    return {output.name: output.array.tolist() for output in response.outputs}
