"""How tests of the clients wait and call."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from carryover.client.sync import Client
from tests.service.rpc.world import World

T = TypeVar("T")


def wait_here(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait on a thread until something holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def blocking(world: World, act: Callable[[Client], T], caller: str | None = None) -> T:
    """Use the blocking client on a thread, while the server answers on this one."""

    def run() -> T:
        with Client(world.address, timeout_s=10, caller=caller) as client:
            return act(client)

    return await asyncio.to_thread(run)
