import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.slots import NUM_RESERVED, Slot, SlotTable, StaleSlot


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=60))
def test_no_row_is_held_twice_and_none_is_lost(actions: list[tuple[bool, int]]) -> None:
    table = SlotTable(10)
    held: list[tuple[Slot, ...]] = []
    for allocates, number in actions:
        if allocates:
            slots = table.allocate(number)
            assert (slots is None) == (number > 8 - sum(map(len, held)))
            held.extend([slots] if slots is not None else [])
        elif held:
            table.free(held.pop(number % len(held)))
        rows = [slot.row for slots in held for slot in slots]
        assert len(set(rows)) == len(rows)
        assert all(NUM_RESERVED <= row < 10 for row in rows)
        assert table.num_free == 8 - len(rows)


def test_a_late_release_is_caught_and_leaves_the_next_holder_alone() -> None:
    table = SlotTable(3)
    first = table.allocate(1)
    assert first is not None
    table.free(first)
    with pytest.raises(StaleSlot, match="generation 1"):
        table.free(first)
    second = table.allocate(1)
    assert second is not None and second[0].row == first[0].row
    with pytest.raises(StaleSlot):
        table.free(first)
    assert table.allocate(1) is None  # still held
    table.free(second)
    assert table.num_free == 1


def test_a_table_without_room_for_the_reserved_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2, got 1"):
        SlotTable(1)
