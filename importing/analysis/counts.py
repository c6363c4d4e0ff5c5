"""Numbers that depend on how many rows a run has: polynomials of that number, and what holds of them for all numbers.

What a graph computes from the sizes of its inputs mostly ends as the shape of something, and there the number of rows
may be. Whether it is the number itself, twice the number, or eight at most, one run does not tell; so it is computed
with.
"""

from typing import Any, Final

MOST_ROWS: Final = 2**16  # of a run; with more of them, whole numbers of a narrow type may wrap around


class NotCounted(Exception):
    """A result that is no polynomial of the number of rows, or not the same comparison for all numbers."""


class Count:
    """A polynomial of the number of rows with whole coefficients, not all but the first zero.

    Args:
        coefficients: Of rows to the power of 0, 1, 2, ...
    """

    def __init__(self, *coefficients: int) -> None:
        self.coefficients = coefficients

    def at(self, num_rows: int) -> int:
        """Its value for so many rows."""
        return sum(c * num_rows**power for power, c in enumerate(self.coefficients))

    def __add__(self, other: object) -> Any:
        mine, others = self.coefficients, _coefficients(other)
        length = max(len(mine), len(others))
        return _count([_at(mine, i) + _at(others, i) for i in range(length)])

    def __mul__(self, other: object) -> Any:
        others = _coefficients(other)
        product = [0] * (len(self.coefficients) + len(others) - 1)
        for i, mine in enumerate(self.coefficients):
            for j, its in enumerate(others):
                product[i + j] += mine * its
        return _count(product)

    def __neg__(self) -> Any:
        return self * -1

    def __sub__(self, other: object) -> Any:
        return self + Count(*_coefficients(other)) * -1

    def __rsub__(self, other: object) -> Any:
        return -self + other

    __radd__, __rmul__ = __add__, __mul__


ROWS: Final = Count(0, 1)


def divide(dividend: Any, divisor: Any) -> Any:
    """The quotient, where nothing is left over."""
    rest, its = list(_coefficients(dividend)), _coefficients(divisor)
    quotient = [0] * max(len(rest) - len(its) + 1, 1)
    for power in range(len(rest) - len(its), -1, -1):
        quotient[power] = rest[power + len(its) - 1] // its[-1] if its[-1] else 0
        for index, coefficient in enumerate(its):
            rest[power + index] -= quotient[power] * coefficient
    if any(rest) or not its[-1]:
        raise NotCounted
    return _count(quotient)


def remainder(dividend: Any, divisor: Any) -> Any:
    """Nothing, or it is not known."""
    divide(dividend, divisor)
    return 0


def is_less(one: Any, other: Any) -> bool:
    """Whether one is less than the other, if that is so for every number of rows or for none."""
    if _never_negative(other - one - 1):
        return True
    if _never_negative(one - other):
        return False
    raise NotCounted


def is_equal(one: Any, other: Any) -> bool:
    """Whether both are equal, if that is so for every number of rows or for none."""
    apart = one - other
    if not isinstance(apart, Count):
        return bool(apart == 0)
    if _never_negative(apart - 1) or _never_negative(-apart - 1):
        return False
    raise NotCounted


def absolute(count: Any) -> Any:
    """Without its sign, if it always has the same."""
    return -count if is_less(count, 0) else count


def times_rows(count: Any) -> int:
    """By how much it grows with each row, if it is a multiple of their number."""
    coefficients = _coefficients(count)
    if len(coefficients) != 2 or coefficients[0] or coefficients[1] < 1:
        raise NotCounted
    return coefficients[1]


def _never_negative(count: Any) -> bool:
    """Whether it is at least 0 from one row on; not all such polynomials are found."""
    shifted: Any = 0
    for coefficient in reversed(_coefficients(count)):
        shifted = shifted * Count(1, 1) + coefficient
    return all(coefficient >= 0 for coefficient in _coefficients(shifted))


def _coefficients(value: object) -> tuple[int, ...]:
    if isinstance(value, Count):
        return value.coefficients
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return (int(value),)
    raise NotCounted


def _count(coefficients: list[int]) -> int | Count:
    while len(coefficients) > 1 and not coefficients[-1]:
        coefficients.pop()
    return Count(*coefficients) if len(coefficients) > 1 else coefficients[0]


def _at(coefficients: tuple[int, ...], index: int) -> int:
    return coefficients[index] if index < len(coefficients) else 0
