import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.devices.balance import Evenness, Shift, is_uneven, shifts

COUNTS = st.lists(st.integers(0, 40), min_size=2, max_size=5)


@given(COUNTS)
def test_as_few_as_can_be_are_moved_until_all_devices_have_as_many(counts: list[int]) -> None:
    planned = shifts(counts, sum(counts))
    after = list(counts)
    for source, to in planned:
        after[source] -= 1
        after[to] += 1
    assert max(after) - min(after) <= 1
    assert sum(after) == sum(counts)
    # What is above the even share has to go; where the share is no whole number the fullest keep one more.
    share, num_larger = divmod(sum(counts), len(counts))
    goal = sorted([share + 1] * num_larger + [share] * (len(counts) - num_larger))
    assert len(planned) == sum(max(0, have - wanted) for have, wanted in zip(sorted(counts), goal, strict=True))


@given(COUNTS, st.integers(0, 9))
def test_no_more_are_planned_than_there_is_room_for(counts: list[int], most: int) -> None:
    assert shifts(counts, most) == shifts(counts, sum(counts))[:most]


def test_each_goes_from_the_fullest_to_the_emptiest() -> None:
    assert shifts([5, 1, 0], 9) == [Shift(0, 2), Shift(0, 1), Shift(0, 2)]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([7, 7], False),
        ([16, 0], False),  # as many as are left as they are, however few there are
        ([17, 0], True),
        ([20, 3, 20], True),
        ([1100, 900], False),  # a quarter of the average
        ([1130, 870], True),
        ([1000], False),
        ([], False),
    ],
)
def test_only_what_differs_by_more_than_a_little_is_uneven(counts: list[int], expected: bool) -> None:
    assert is_uneven(counts, Evenness(least=16, share=0.25)) is expected
