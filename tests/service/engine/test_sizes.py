"""Shapes against what is declared."""

from service.engine.sizes import fits


def test_a_number_is_that_number_and_a_symbol_any() -> None:
    assert fits((2, 3), (2, "W"), {})
    assert not fits((1, 3), (2, "W"), {})
    assert not fits((2, 3, 1), (2, "W"), {})
    assert not fits((2,), (2, "W"), {})
    assert fits((), (), {})


def test_a_symbol_has_one_size_in_all_that_is_compared() -> None:
    sizes: dict[str, int] = {}
    assert fits((5, 0), ("W", "V"), sizes)
    assert sizes == {"W": 5, "V": 0}
    assert fits((0, 5), ("V", "W"), sizes)
    assert not fits((5,), ("V",), sizes)
    assert not fits((4, 5), ("W", "W"), {})
