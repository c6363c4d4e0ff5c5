import asyncio

import pytest

from tests.service.oip.world import World, make_world


@pytest.fixture
async def world() -> World:
    return make_world(asyncio.get_running_loop())
