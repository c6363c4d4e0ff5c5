"""Sessions of an accumulator, stepped over the bridge of a model that is served."""

import numpy as np

from service.bridge import next_id
from service.engine.interface import (
    CloseSession,
    OpenSession,
    SessionId,
    SessionSteps,
    StepTensors,
    TensorOutputs,
)
from service.models import LiveModel

ONE = {"scale": np.array(1, np.float32)}


async def open_session(model: LiveModel, idle_timeout_s: float | None = None) -> SessionId:
    session = next_id()
    await model.bridge.answers([OpenSession(next_id(), session, idle_timeout_s=idle_timeout_s)])
    return session


def step_of(session: SessionId, value: float) -> StepTensors:
    return StepTensors(next_id(), session, {"values": np.array([[value]], np.float32)}, ONE, 1, ("total", "count"))


def read(outputs: object) -> tuple[float, int]:
    """The total and the number of steps so far."""
    assert isinstance(outputs, TensorOutputs)
    return float(outputs.tensors["total"][0, 0]), int(outputs.tensors["count"][0])


async def step(model: LiveModel, session: SessionId, value: float) -> tuple[float, int]:
    (outputs,) = await model.bridge.answers([step_of(session, value)])
    return read(outputs)


async def close_session(model: LiveModel, session: SessionId) -> int:
    (closed,) = await model.bridge.answers([CloseSession(next_id(), session)])
    assert isinstance(closed, SessionSteps)
    return closed.num_steps
