"""What tests of sequences look at."""

import asyncio
from collections.abc import Callable

import pytest

from service.oip.errors import OipError
from service.oip.inference.answer import Answer
from service.oip.messages import InferResponse
from tests.service.oip.world import outputs_of

PATIENCE_S = 60.0


def total(response: InferResponse) -> tuple[float, int]:
    """The one sum and the one number of steps of an answer."""
    outputs = outputs_of(response)
    return outputs["total"][0][0], outputs["count"][0]


async def refused(call: Callable[[], Answer]) -> OipError:
    with pytest.raises(OipError) as caught:
        await asyncio.wait_for(call(), PATIENCE_S)
    return caught.value


async def settled(*answers: Answer) -> list[object]:
    """What became of each, in the order given: totals, or the text of an error."""
    async with asyncio.timeout(PATIENCE_S):
        got = await asyncio.gather(*answers, return_exceptions=True)
    return [
        total(one) if isinstance(one, InferResponse) else one.message if isinstance(one, OipError) else type(one)
        for one in got
    ]
