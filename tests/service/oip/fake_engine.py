"""An engine of tensors that answers at once by simple sums, or holds requests until the test decides about them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.interface import (
    AnyRequest,
    CloseSession,
    EngineStats,
    Event,
    ExportSession,
    Failed,
    Finished,
    GraphRuns,
    OpenSession,
    Publish,
    RunStats,
    RunTensors,
    SessionId,
    SessionState,
    SessionSteps,
    StepTensors,
    TensorOutputs,
)
from service.errors import ServiceError, SessionNotFound
from tests.service.fake_door import FakeDoor

Array = npt.NDArray[Any]


class FakeEngine(FakeDoor):
    """Sums values by sequence.

    A step adds the sum of `values` times `scale` to the session's `total` (1,) and one to its `count` (); it gives
    `total` (n, 1) and `count` (n,). A run gives `y`, its input `x`.
    """

    def __init__(self, publish: Publish) -> None:
        super().__init__(publish)
        self.sessions: dict[SessionId, tuple[float, int]] = {}
        self.refused_openings: list[ServiceError] = []
        self.ran = RunStats((GraphRuns("step", 1, 2, 0.25), GraphRuns("step", 4, 1, 0.5)), 6, 0.125)

    def stats(self) -> EngineStats:
        return EngineStats(0, len(self.held), 8, 10, 0, 0, len(self.sessions))

    def run_stats(self) -> RunStats:
        return self.ran

    def forget(self, session: SessionId) -> int:
        return self.sessions.pop(session)[1]

    def events(self, request: AnyRequest) -> Sequence[Event]:
        try:
            return [Finished(request.id, self._value(request))]
        except ServiceError as error:
            return [Failed(request.id, error)]

    def _value(self, request: AnyRequest) -> object:
        if isinstance(request, RunTensors):
            return TensorOutputs({name: request.inputs["x"] for name in request.outputs})
        if isinstance(request, OpenSession):
            if self.refused_openings:
                raise self.refused_openings.pop(0)
            total, count = 0.0, 0
            if request.initial is not None:
                total = float(request.initial["total"].item()) if "total" in request.initial else 0.0
                count = int(request.initial["count"].item()) if "count" in request.initial else 0
            self.sessions[request.session] = (total, count)
            return SessionSteps(0)
        assert isinstance(request, StepTensors | ExportSession | CloseSession)
        if request.session not in self.sessions:
            raise SessionNotFound("no such session")
        if isinstance(request, StepTensors):
            return self._step(request)
        total, count = self.sessions[request.session]
        if isinstance(request, CloseSession):
            del self.sessions[request.session]
            return SessionSteps(count)
        return SessionState({"total": np.array([total], np.float32), "count": np.array(count, np.int64)}, count)

    def _step(self, request: StepTensors) -> TensorOutputs:
        totals, counts = [], []
        total, count = self.sessions[request.session]
        for row in request.inputs["values"]:
            total += float(row.sum()) * float(request.shared["scale"])
            count += 1
            totals.append([total])
            counts.append(count)
        self.sessions[request.session] = (total, count)
        made: Mapping[str, Array] = {"total": np.array(totals, np.float32), "count": np.array(counts, np.int64)}
        return TensorOutputs({name: made[name] for name in request.outputs}, count)
