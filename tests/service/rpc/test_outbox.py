"""What one stream may owe, and how much of it goes out at a time."""

import asyncio

from service.rpc.outbox import MAX_MESSAGE_BYTES, MAX_MESSAGE_EVENTS, MAX_OWED_BYTES, Outbox
from service.rpc.pending import Pending
from service.rpc.session_answers import stepped


def pending(outbox: Outbox, request_id: int, reserved_bytes: int = 0) -> Pending:
    made = Pending(outbox, request_id, None, stepped, reserved_bytes)
    outbox.take(made)
    return made


async def test_a_message_has_so_many_events_and_bytes_at_most_in_order() -> None:
    outbox = Outbox(10**6)
    for i in range(2 * MAX_MESSAGE_EVENTS + 1):
        outbox.tell(b"%d" % i)
    sent: list[bytes] = []
    sizes = []
    while outbox.unsent:
        payloads, num_bytes = outbox.batch()
        assert num_bytes == sum(map(len, payloads))
        sizes.append(len(payloads))
        sent += payloads
        outbox.sent(len(payloads), num_bytes)
    assert sizes == [MAX_MESSAGE_EVENTS, MAX_MESSAGE_EVENTS, 1]
    assert sent == [b"%d" % i for i in range(2 * MAX_MESSAGE_EVENTS + 1)]
    for size in (MAX_MESSAGE_BYTES // 2, MAX_MESSAGE_BYTES // 2, 1, 3 * MAX_MESSAGE_BYTES, 5):
        outbox.tell(b"x" * size)
    sizes = []
    while outbox.unsent:
        payloads, num_bytes = outbox.batch()
        sizes.append(len(payloads))
        outbox.sent(len(payloads), num_bytes)
    assert sizes == [2, 1, 1, 1]  # what is larger than a message goes alone
    assert (outbox.in_flight, outbox.full) == (0, False)


async def test_it_is_full_of_commands_until_their_answers_have_gone() -> None:
    outbox = Outbox(2)
    first, second = pending(outbox, 1), pending(outbox, 2)
    assert outbox.full
    outbox.answer(first, b"1")
    outbox.answer(second, b"2")
    assert (outbox.full, outbox.pending) == (True, {})
    there_is_room = asyncio.Event()
    outbox.when_room(there_is_room.set)
    await asyncio.sleep(0)
    assert not there_is_room.is_set()
    outbox.sent(1, 1)
    await asyncio.wait_for(there_is_room.wait(), 60)
    assert not outbox.full


async def test_it_is_full_of_bytes_that_wait_and_bytes_that_are_to_come() -> None:
    outbox = Outbox(100)
    first = pending(outbox, 1, MAX_OWED_BYTES - 10)
    assert not outbox.full
    second = pending(outbox, 2, 10)
    assert outbox.full
    outbox.answer(first, b"small")
    assert not outbox.full
    outbox.answer(second, b"x" * MAX_OWED_BYTES)  # larger than it was thought to be
    assert outbox.full
    for _ in range(2):
        payloads, num_bytes = outbox.batch()
        outbox.sent(len(payloads), num_bytes)
    assert not outbox.full
    outbox.untake(pending(outbox, 3, MAX_OWED_BYTES))
    assert (outbox.full, outbox.in_flight) == (False, 0)


async def test_a_writer_is_woken_by_what_comes_and_a_closed_outbox_drops_it() -> None:
    outbox = Outbox(100)
    first, second = pending(outbox, 1), pending(outbox, 2)
    there_is_news = asyncio.Event()
    outbox.when_news(there_is_news.set)
    await asyncio.sleep(0)
    assert not there_is_news.is_set()
    outbox.answer(first, b"1")
    await asyncio.wait_for(there_is_news.wait(), 60)
    assert outbox.close() == [second]
    outbox.answer(second, b"2")
    outbox.tell(b"3")
    assert outbox.unsent == 0
