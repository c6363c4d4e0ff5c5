import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.oip.codec import MAX_TEXTS
from service.oip.errors import OipError
from service.oip.faces.classification import can_classify, check_num_classes, classify


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
    row = np.array([[np.nan, 1, np.inf, np.nan]])
    assert classify(row, 4, 1).tolist() == [[b"inf:2", b"1.000000:1", b"nan:0", b"nan:3"]]
    assert classify(row, 3, 1).tolist() == [[b"inf:2", b"1.000000:1", b"nan:0"]]
    assert classify(row, 1, 1).tolist() == [[b"inf:2"]]


def test_every_step_has_its_own_classes_and_the_rest_of_the_dimensions_is_one() -> None:
    values = np.arange(12.0).reshape(1, 3, 2, 2)
    assert classify(values, 1, 2).tolist() == [[[b"3.000000:3"], [b"7.000000:3"], [b"11.000000:3"]]]


def test_only_numbers_have_an_order() -> None:
    assert [kind for kind in ("FP16", "INT8", "BOOL", "BYTES", "BF16") if can_classify(kind)] == ["FP16", "INT8"]


@given(
    hnp.arrays(
        np.float32, st.integers(1, 12), elements=st.sampled_from([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan])
    ),
    st.integers(1, 14),
)
def test_some_classes_are_the_first_of_all(row: npt.NDArray[np.float32], count: int) -> None:
    places = sorted(range(len(row)), key=lambda i: (math.isnan(row[i]), 0.0 if math.isnan(row[i]) else -row[i], i))
    expected = [f"{row[i]:f}:{i}".encode() for i in places[:count]]
    assert classify(row[None], count, 1).tolist() == [expected]


@given(hnp.arrays(np.uint64, st.integers(1, 9), elements=st.sampled_from([0, 1, 2**63, 2**64 - 1])), st.integers(1, 9))
def test_some_classes_of_whole_numbers_are_the_first_of_all(row: npt.NDArray[np.uint64], count: int) -> None:
    places = sorted(range(len(row)), key=lambda i: (-int(row[i]), i))
    assert classify(row[None], count, 1).tolist() == [[f"{int(row[i])}:{i}".encode() for i in places[:count]]]


def test_no_more_classes_are_told_than_the_loop_has_time_for() -> None:
    check_num_classes("y", MAX_TEXTS // 2, 2**40, 2)
    check_num_classes("y", 2**31 - 1, MAX_TEXTS, 1)
    with pytest.raises(OipError) as caught:
        check_num_classes("y", MAX_TEXTS // 2 + 1, 2**40, 2)
    assert (caught.value.code, caught.value.message) == (
        "invalid_argument",
        f"output 'y' classification must be of at most {MAX_TEXTS} classes in all, got {MAX_TEXTS + 2}",
    )
