"""What the reading half of a stream holds on to."""

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from service.rpc.inflow import TURN_COMMANDS, Inflow
from service.rpc.outbox import Outbox


class Message:
    def __init__(self, commands: Sequence[int]) -> None:
        self.commands = commands


class Commands(list[int]):
    """A list of which one can see that it is gone."""


class FakeWire:
    """Hands over what the test says."""

    def __init__(self) -> None:
        self.take: Callable[[Any], None] | None = None

    def receive(self, take: Callable[[Any], None]) -> None:
        assert self.take is None
        self.take = take

    def send(self, payload: bytes, sent: Callable[[bool], None]) -> None:
        raise AssertionError("nothing is sent")

    def stop(self) -> None:
        pass

    def hand(self, message: Message) -> None:
        take, self.take = self.take, None
        assert take is not None
        take(message)


async def test_a_stream_that_waits_keeps_nothing_of_its_last_message() -> None:
    taken: list[int] = []
    wire = FakeWire()

    def fail(error: Exception) -> None:
        raise AssertionError(error)

    inflow = Inflow(wire, Outbox(10), lambda message: message.commands, taken.append, lambda: None, fail)
    inflow.go_on()
    for start in (0, 5):
        commands = Commands(range(start, start + 5))
        assert len(commands) <= TURN_COMMANDS
        gone = weakref.ref(commands)
        wire.hand(Message(commands))
        del commands
        gc.collect()
        assert gone() is None
    assert taken == list(range(10))
    assert inflow.num_read == 2
