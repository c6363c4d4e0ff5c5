from collections.abc import AsyncIterator

import pytest

from tests.service.rpc.streams import Stream
from tests.service.rpc.world import World, serving


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving(drain_timeout_s=0.05) as running:
        yield running


@pytest.fixture
def stream(world: World) -> Stream:
    return Stream(world)
