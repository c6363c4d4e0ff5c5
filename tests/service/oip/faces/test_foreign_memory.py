"""Inputs in memory whose owner writes to it after the request was checked: a region of a client's."""

import asyncio
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from service.engine.interface import OpenSession, RunTensors, StepTensors
from service.oip.codec import decode
from service.oip.errors import OipError
from service.oip.messages import InferRequest, Tensor
from tests.service.oip.world import make_manifest, make_world, spec, tensor


class Owner:
    """Memory that the service reads and its owner writes."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._memory = bytearray(array.tobytes())
        self._array = array

    def lend(self, datatype: str) -> npt.NDArray[Any]:
        """The array as both doors read it from a region."""
        return decode(memoryview(self._memory).toreadonly(), datatype, self._array.shape, "x", "m")

    def write(self, value: float) -> None:
        self._memory[:] = np.full_like(self._array, value).tobytes()


async def test_a_value_that_rows_share_is_the_one_that_was_sent() -> None:
    world = make_world(asyncio.get_running_loop())
    owner = Owner(np.array(2.0, np.float32))
    inputs = (tensor("values", [[1.0]]), Tensor("scale", "FP32", owner.lend("FP32")))
    answer = world.core.begin(InferRequest("sums", "", "", inputs, (), {"sequence_id": 1, "sequence_start": True}))
    owner.write(1000)
    (request,) = [request for request in world.engine.submitted if isinstance(request, StepTensors)]
    assert request.shared["scale"].item() == 2
    await answer


async def test_a_state_that_was_found_finite_stays_so() -> None:
    world = make_world(asyncio.get_running_loop())
    owner = Owner(np.array([[7.0]], np.float32))
    given = Tensor("total_in", "FP32", owner.lend("FP32"))
    inputs = (tensor("values", [[1.0]]), tensor("scale", 1.0), given)
    answer = world.core.begin(InferRequest("sums", "", "", inputs, (), {"sequence_id": 1, "sequence_start": True}))
    owner.write(float("nan"))
    (request,) = [request for request in world.engine.submitted if isinstance(request, OpenSession)]
    assert request.initial is not None
    assert request.initial["total"].tolist() == [7]
    await answer


async def test_lengths_that_were_found_good_stay_so() -> None:
    manifest = make_manifest(
        "same", "run", [spec("x", "float32", "B", "T"), spec("n", "int32", "B")], [spec("y", "float32", "B", "T")]
    )
    assert manifest.imported is not None
    imported = manifest.imported.model_copy(update={"lengths_input": "n"})
    world = make_world(asyncio.get_running_loop(), manifest.model_copy(update={"imported": imported}))
    owner = Owner(np.array([2], np.int32))
    inputs = (tensor("x", [[1, 2]]), Tensor("n", "INT32", owner.lend("INT32")))
    answer = world.core.begin(InferRequest("same", "", "", inputs))
    owner.write(77)
    (request,) = world.engines["same", 1].submitted
    assert isinstance(request, RunTensors)
    assert request.inputs["n"].tolist() == [2]
    await answer
    with pytest.raises(OipError, match="must have lengths of 0 to 2"):
        world.core.begin(InferRequest("same", "", "", (inputs[0], Tensor("n", "INT32", owner.lend("INT32")))))


def test_a_boolean_that_was_found_good_stays_so() -> None:
    memory = bytearray(b"\1\0")
    array = decode(memoryview(memory).toreadonly(), "BOOL", [2], "x", "m")
    memory[:] = b"\7\7"
    assert array.view(np.uint8).tolist() == [1, 0]
