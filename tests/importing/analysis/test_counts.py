"""Polynomials of the number of rows, beside the numbers that they are for 1 to 30 rows."""

import itertools
import operator
from collections.abc import Callable
from typing import Any

import pytest

from importing.analysis.counts import ROWS, Count, NotCounted, absolute, divide, is_equal, is_less, times_rows

VALUES = [0, 1, 3, -2, ROWS, ROWS * 2, ROWS + 1, ROWS * 3 - 3, ROWS - 5, ROWS * ROWS, ROWS * ROWS + ROWS, -ROWS]
PAIRS = [pair for pair in itertools.product(VALUES, repeat=2) if any(isinstance(each, Count) for each in pair)]
NUMBERS = range(1, 31)


def at(value: Any, rows: int) -> Any:
    return value.at(rows) if isinstance(value, Count) else value


@pytest.mark.parametrize("operation", [operator.add, operator.sub, operator.mul])
def test_they_are_computed_with_as_numbers_are(operation: Callable[[Any, Any], Any]) -> None:
    for one, other in PAIRS:
        for rows in NUMBERS:
            assert at(operation(one, other), rows) == operation(at(one, rows), at(other, rows))


@pytest.mark.parametrize(
    ("decide", "truth", "least"),
    [(is_less, operator.lt, 70), (is_equal, operator.eq, 60)],
)
def test_a_comparison_holds_for_every_number_or_is_not_decided(
    decide: Callable[[Any, Any], bool], truth: Callable[[Any, Any], bool], least: int
) -> None:
    decided = 0
    for one, other in PAIRS:
        try:
            answer = decide(one, other)
        except NotCounted:
            continue
        decided += 1
        assert all(truth(at(one, rows), at(other, rows)) == answer for rows in NUMBERS)
    assert decided >= least


def test_a_quotient_leaves_nothing_over() -> None:
    divided = 0
    for one, other in PAIRS:
        try:
            quotient = divide(one, other)
        except NotCounted:
            continue
        divided += 1
        assert all(at(quotient, rows) * at(other, rows) == at(one, rows) for rows in NUMBERS)
    assert divided >= 30
    with pytest.raises(NotCounted):
        divide(ROWS, 2)
    with pytest.raises(NotCounted):
        divide(6, ROWS)
    with pytest.raises(NotCounted):
        divide(ROWS, 0)


def test_eight_at_most_is_not_decided() -> None:
    with pytest.raises(NotCounted):
        is_less(ROWS, 8)
    assert is_less(0, ROWS)
    assert not is_less(ROWS, 1)


def test_signs_and_multiples() -> None:
    assert at(absolute(-ROWS), 5) == 5
    assert times_rows(ROWS * 4) == 4
    for other in (ROWS + 1, ROWS * ROWS, 3, -ROWS):
        with pytest.raises(NotCounted):
            times_rows(other)


def test_what_is_no_whole_number_is_not_counted() -> None:
    for other in (0.5, float("inf"), float("nan"), "a"):
        with pytest.raises(NotCounted):
            ROWS * other
