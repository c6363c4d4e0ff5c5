"""Requests to the model without state, and refusals of them."""

from typing import Any

import pytest

from service.oip.errors import OipError
from service.oip.messages import InferRequest, RequestedOutput
from tests.service.oip.world import (
    World,
    tensor,
)

MAX_BYTES = 4000


def run(
    values: Any = ((1, 2, 3),), outputs: tuple[RequestedOutput, ...] = (), version: str = "", **parameters: Any
) -> InferRequest:
    return InferRequest("same", version, "r1", (tensor("x", values),), outputs, parameters)


def refusal(world: World, request: InferRequest) -> tuple[str, str]:
    with pytest.raises(OipError) as caught:
        world.core.begin(request)
    return caught.value.code, caught.value.message
