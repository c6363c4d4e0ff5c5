import numpy as np
import pytest

from service.oip.faces.classification import can_classify, classify


def test_the_best_classes_come_first_and_of_equal_ones_the_first() -> None:
    rows = np.array([[0.25, 2.5, -1, 2.5], [1, 0, 3, 2]], np.float32)
    assert classify(rows, 3, 1).tolist() == [
        [b"2.500000:1", b"2.500000:3", b"0.250000:0"],
        [b"3.000000:2", b"2.000000:3", b"1.000000:0"],
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_integers_are_told_as_such(dtype: type) -> None:
    assert classify(np.array([[1, 7, 7]], dtype), 2, 1).tolist() == [[b"7:1", b"7:2"]]


def test_there_are_no_more_classes_than_values() -> None:
    assert classify(np.zeros((2, 1)), 9, 1).tolist() == [[b"0.000000:0"]] * 2
    assert classify(np.zeros((2, 0)), 9, 1).shape == (2, 0)


def test_what_is_no_number_comes_last() -> None:
    assert classify(np.array([[np.nan, 1, np.inf]]), 3, 1).tolist() == [[b"inf:2", b"1.000000:1", b"nan:0"]]


def test_every_step_has_its_own_classes_and_the_rest_of_the_dimensions_is_one() -> None:
    values = np.arange(12.0).reshape(1, 3, 2, 2)
    assert classify(values, 1, 2).tolist() == [[[b"3.000000:3"], [b"7.000000:3"], [b"11.000000:3"]]]


def test_only_numbers_have_an_order() -> None:
    assert [kind for kind in ("FP16", "INT8", "BOOL", "BYTES", "BF16") if can_classify(kind)] == ["FP16", "INT8"]
