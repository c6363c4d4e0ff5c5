"""Room is given out together, in order, and comes back."""

import pytest

from service.engine.integrity import IntegrityError
from service.engine.interface import Decode, Priority
from service.engine.room import Room
from service.engine.slots import SlotTable
from service.engine.tasks.decode import DecodeTask


def make(num_slots: int, num_memory_rows: int = 40, session_slots: int = 0) -> Room:
    return Room(SlotTable(num_slots), num_slots - 2 - session_slots, num_memory_rows)


def task(request: int, beam_size: int, length: int) -> DecodeTask:
    return DecodeTask(Decode(request, (4,) * length, beam_size, 1, 0.6, 9))


def test_nobody_overtakes_whoever_waits_for_slots() -> None:
    room = make(num_slots=6, num_memory_rows=40)  # four slots, four pages
    first, wide, narrow = task(1, 2, 9), task(2, 3, 5), task(3, 1, 5)
    for each in (first, wide, narrow):
        room.wait(each)
    assert room.start() == [first]
    assert (room.num_waiting, room.can_start) == (2, False)
    room.leave(first)
    assert room.start() == [wide, narrow]


def test_nobody_overtakes_whoever_waits_for_memory() -> None:
    room = make(num_slots=12, num_memory_rows=40)  # four pages
    first, long, short = task(1, 1, 9), task(2, 1, 17), task(3, 1, 1)
    for each in (first, long, short):
        room.wait(each)
    assert room.start() == [first]  # three pages are wanted, two are free
    room.leave(first)
    assert room.start() == [long, short]


def test_who_leaves_the_queue_makes_way() -> None:
    room = make(num_slots=4, num_memory_rows=40)
    first, wide, narrow = task(1, 1, 5), task(2, 2, 5), task(3, 1, 5)
    for each in (first, wide, narrow):
        room.wait(each)
    assert room.start() == [first]
    room.leave(wide)
    assert room.start() == [narrow]
    for each in (first, narrow):
        room.leave(each)
    room.check_integrity([], [])


def test_the_books_are_of_those_who_are_here() -> None:
    room = make(num_slots=6, num_memory_rows=40)
    holds, waits = task(1, 3, 9), task(2, 3, 9)
    for each in (holds, waits):
        room.wait(each)
    room.start()
    room.check_integrity([holds, waits], [])
    with pytest.raises(IntegrityError, match="those who wait"):
        room.check_integrity([holds], [])
    with pytest.raises(IntegrityError, match="slots: expected 4 in all"):
        room.check_integrity([waits], [])
    slots = room.slots.allocate(1)
    assert slots is not None
    with pytest.raises(IntegrityError, match="slots: expected 4 in all"):
        room.check_integrity([holds, waits], [])
    room.check_integrity([holds, waits], slots)


def test_requests_leave_the_slots_of_sessions_alone() -> None:
    room = make(num_slots=6, session_slots=2)
    first, second = task(1, 2, 5), task(2, 1, 5)
    for each in (first, second):
        room.wait(each)
    assert room.start() == [first]
    assert (room.num_held, room.slots.num_free) == (2, 2)
    room.leave(first)
    assert room.start() == [second]
    assert room.num_held == 1


def test_a_priority_is_a_head_start_in_the_queue_and_no_more() -> None:
    room = make(num_slots=3)  # one slot
    keys = {1: 10.0, 2: 10.2, 3: 9.9, 4: 10.1}
    priorities = {1: Priority.NORMAL, 2: Priority.NORMAL, 3: Priority.HIGH, 4: Priority.LOW}
    for request, key in keys.items():
        room.wait(DecodeTask(Decode(request, (4,), 1, 1, 0.6, 9, priority=priorities[request])), key)
    begun = []
    while room.num_waiting:
        (one,) = room.start()
        begun.append(one.request.id)
        room.leave(one)
    assert begun == [3, 1, 4, 2]
