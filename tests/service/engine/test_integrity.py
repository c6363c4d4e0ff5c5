import pytest

from service.engine.integrity import IntegrityError, check_holdings


def test_books_that_balance_pass() -> None:
    check_holdings("slots", [2, 5], 3, 5)
    check_holdings("slots", [], 0, 0)


@pytest.mark.parametrize(("held", "num_free"), [([2, 5], 2), ([2, 5], 4), ([2, 2], 3)])
def test_what_was_lost_or_given_out_twice_is_found(held: list[int], num_free: int) -> None:
    with pytest.raises(IntegrityError, match="slots: expected 5 in all, each once, got"):
        check_holdings("slots", held, num_free, 5)
