"""Commands that go out together never make a message that the server refuses."""

import asyncio
import queue
from collections.abc import Iterator

import pytest

from carryover.client import errors
from carryover.client.aio import AsyncClient
from carryover.client.line import _Connection
from carryover.client.message_room import MAX_JOINED_BYTES, MessageRoom
from carryover.client.tag_window import TagWindow
from protos.carryover.v1 import carryover_pb2 as pb
from tests.service.rpc.world import serving


def test_a_message_is_full_by_count_or_by_bytes_and_takes_one_command_of_any_size() -> None:
    small, large = pb.SessionCommand(request_id=1), pb.SessionCommand(open=pb.OpenSession(session_id="x" * 2**20))
    room = MessageRoom()
    assert [room.takes(small) for _ in range(257)] == [True] * 256 + [False]
    assert [MessageRoom().takes(large), room.takes(large)] == [True, False]
    room = MessageRoom()
    assert [room.takes(large), room.takes(small)] == [True, False]
    half = pb.SessionCommand(open=pb.OpenSession(session_id="x" * (MAX_JOINED_BYTES // 2 - 16)))
    room = MessageRoom()
    assert [room.takes(half) for _ in range(3)] == [True, True, False]


async def test_many_asyncio_commands_at_once_stay_within_what_the_server_takes() -> None:
    async with serving(drain_timeout_s=0.05, max_message_bytes=300_000) as world, AsyncClient(world.address) as client:
        opening = [client.session("x" * 30_000).open() for _ in range(40)]
        outcomes = await asyncio.gather(*opening, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {errors.ModelNotFound, errors.InvalidArgument}


def test_many_blocking_commands_at_once_are_cut_in_order() -> None:
    answers: queue.SimpleQueue[None] = queue.SimpleQueue()
    streams: list[Iterator[pb.SessionRequest]] = []

    class Call(Iterator[pb.SessionResponse]):
        def __init__(self, messages: Iterator[pb.SessionRequest]) -> None:
            streams.append(messages)

        def __next__(self) -> pb.SessionResponse:
            answers.get()
            raise StopIteration

    connection = _Connection(Call, lambda _: None)
    for _ in range(40):
        connection.send(pb.SessionCommand(open=pb.OpenSession(session_id="x" * 30_000)))
    connection.finish()
    messages = list(streams[0])
    answers.put(None)
    assert [len(message.commands) for message in messages] == [8, 8, 8, 8, 8]
    assert max(message.ByteSize() for message in messages) <= MAX_JOINED_BYTES
    assert [c.request_id for message in messages for c in message.commands] == list(range(1, 41))


@pytest.mark.parametrize("width", [64, 40, 39])
def test_many_sentences_are_cut_in_order(width: int) -> None:
    window = TagWindow("m", 0, [["x" * 30_000]] * 40, "normal", width)
    messages = list(iter(window.message, None))
    assert [len(message.commands) for message in messages] == [8, 8, 8, 8, min(width, 40) - 32]
    assert max(message.ByteSize() for message in messages) <= MAX_JOINED_BYTES
    assert [c.request_id for message in messages for c in message.commands] == list(range(1, min(width, 40) + 1))
