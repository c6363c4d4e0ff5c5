import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from service.rpc.completion.loop import CompletionLoop
from tests.service.rpc.streams import Stream
from tests.service.rpc.world import World, serving


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test of the edge runs on both: our own server, and grpc.aio's on another loop."""
    return {"completion": CompletionLoop, "aio": uvloop.new_event_loop}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving(drain_timeout_s=0.05) as running:
        yield running


@pytest.fixture
def stream(world: World) -> Stream:
    return Stream(world)
