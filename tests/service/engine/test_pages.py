import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.pages import PAGE_ROWS, Memory, MemoryPages, StalePages


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=60))
def test_no_row_is_held_twice_and_the_first_page_never(actions: list[tuple[bool, int]]) -> None:
    pages = MemoryPages(100)  # 12 pages of 8, the first of them reserved, 4 rows over
    held: list[Memory] = []
    for allocates, number in actions:
        if allocates:
            free_rows = pages.num_free_rows
            memory = pages.allocate(number)
            assert (memory is None) == (-(-number // PAGE_ROWS) * PAGE_ROWS > free_rows)
            held.extend([memory] if memory is not None else [])
        elif held:
            pages.free(held.pop(number % len(held)))
        rows = [int(row) for memory in held for row in memory.rows]
        assert len(set(rows)) == len(rows) == sum(memory.length for memory in held)
        assert all(PAGE_ROWS <= row < 96 for row in rows)
        taken = sum(len(memory.pages) for memory in held) * PAGE_ROWS
        assert pages.num_free_rows == pages.num_usable_rows - taken == 88 - taken


def test_rows_are_consecutive_within_a_page() -> None:
    memory = Memory((5, 2), 11)
    assert memory.rows.tolist() == [*range(40, 48), 16, 17, 18]


def test_a_second_release_is_caught() -> None:
    pages = MemoryPages(32)
    memory = pages.allocate(9)
    assert memory is not None
    pages.free(memory)
    assert pages.allocate(20) is not None  # others hold the pages now
    with pytest.raises(StalePages):
        pages.free(memory)
    assert pages.num_free_rows == 0


@pytest.mark.parametrize("num_rows", [0, 8, 15])
def test_a_model_without_memory_has_none_to_give(num_rows: int) -> None:
    pages = MemoryPages(num_rows)
    assert pages.num_usable_rows == pages.num_free_rows == 0
    assert pages.allocate(1) is None
