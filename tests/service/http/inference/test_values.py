import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.inference.values import read_values, write_values
from service.oip.errors import OipError

INTEGERS = {
    "UINT8": (0, 2**8 - 1),
    "UINT16": (0, 2**16 - 1),
    "UINT32": (0, 2**32 - 1),
    "UINT64": (0, 2**64 - 1),
    "INT8": (-(2**7), 2**7 - 1),
    "INT16": (-(2**15), 2**15 - 1),
    "INT32": (-(2**31), 2**31 - 1),
    "INT64": (-(2**63), 2**63 - 1),
}


def refusal(datatype: str, shape: list[int], data: object) -> str:
    with pytest.raises(OipError) as error:
        read_values("x", datatype, shape, data)
    assert error.value.code == "invalid_argument"
    return error.value.message


@pytest.mark.parametrize("datatype", INTEGERS)
def test_an_integer_type_holds_its_range_and_nothing_beyond(datatype: str) -> None:
    low, high = INTEGERS[datatype]
    assert read_values("x", datatype, [2], [low, high]).tolist() == [low, high]
    for value in (low - 1, high + 1, 10**30):
        assert f"values that {datatype} can hold" in refusal(datatype, [1], [value])


@pytest.mark.parametrize(
    "data", [[[1, 2, 3], [4, 5, 6]], [1, 2, 3, 4, 5, 6], [[1, 2], [3, 4], [5, 6]], [[[1, 2, 3, 4, 5, 6]]]]
)
def test_values_may_be_nested_in_any_way(data: list[Any]) -> None:
    assert read_values("x", "INT32", [2, 3], data).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("datatype", "data", "got"),
    [
        ("INT32", [1.0], "got float"),
        ("INT32", [True], "got bool"),
        ("INT32", ["1"], "got str"),
        ("INT32", [None], "got NoneType"),
        ("INT32", [{}], "got dict"),
        ("BOOL", [1], "got int"),
        ("FP32", [True], "got bool"),
        ("FP32", ["NaN"], "got str"),
        ("BYTES", [1], "got int"),
        ("FP32", 1.0, "expected an array, got float"),
        ("FP32", None, "expected an array, got NoneType"),
        ("INT32", [[1], 2], "at one depth"),
        ("INT32", [1, [2]], "got list"),
        ("INT32", [], "expected 1 values for [1], got 0"),
        ("INT32", [1, 2], "expected 1 values for [1], got 2"),
        ("BYTES", ["\ud800"], "surrogate"),
    ],
)  # fmt: skip
def test_what_is_no_value_of_the_type_is_refused(datatype: str, data: object, got: str) -> None:
    message = refusal(datatype, [1], data)
    assert message.startswith("Unable to parse 'data' of input 'x'") and got in message


def test_a_number_that_only_an_infinity_could_stand_for_is_refused() -> None:
    assert "values that FP32 can hold" in refusal("FP32", [1], [1e39])
    assert "values that FP64 can hold" in refusal("FP64", [1], [10**400])
    assert read_values("x", "FP32", [2], [float("inf"), float("-inf")]).tolist() == [float("inf"), float("-inf")]


def test_not_a_number_is_let_through() -> None:
    (value,) = read_values("x", "FP64", [1], json.loads("[NaN]")).tolist()
    assert value != value


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_are_refused_as_json_in_the_clients_words(datatype: str) -> None:
    expected = f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input x"
    assert refusal(datatype, [1], [1.0]) == expected


@pytest.mark.parametrize(("shape", "data"), [([0], []), ([2, 0], [[], []]), ([0, 3], [])])
def test_a_tensor_may_be_empty(shape: list[int], data: list[Any]) -> None:
    assert read_values("x", "FP32", shape, data).shape == tuple(shape)


def test_a_scalar_has_one_value() -> None:
    assert read_values("x", "INT64", [], [7]).tolist() == 7


def test_text_goes_as_utf_8_and_comes_back() -> None:
    array = read_values("x", "BYTES", [2, 2], ["", "grün", "日本", "a\0b"])
    assert array.tolist() == [[b"", "grün".encode()], ["日本".encode(), b"a\0b"]]
    assert write_values("y", "BYTES", array) == ["", "grün", "日本", "a\0b"]


def test_bytes_that_are_no_text_have_no_json() -> None:
    with pytest.raises(OipError, match="output 'y' holds bytes that are not UTF-8"):
        write_values("y", "BYTES", np.array([b"\xff"], object))


@given(st.lists(st.floats(width=32), max_size=8))
def test_fp32_comes_back_bit_for_bit(values: list[float]) -> None:
    array = np.array(values, np.float32)
    back = read_values("x", "FP32", [len(values)], json.loads(json.dumps(write_values("y", "FP32", array))))
    same = (back == array) | (np.isnan(back) & np.isnan(array))
    assert same.all() and (np.signbit(back) == np.signbit(array))[~np.isnan(array)].all()


def test_half_floats_are_written_as_the_numbers_that_they_are() -> None:
    assert write_values("y", "FP16", np.array([[0.5, -2.0]], np.float16)) == [0.5, -2.0]
    bits = [struct.unpack(">H", struct.pack(">f", value)[:2])[0] for value in (1.0, -3.140625, 2.0**127)]
    assert write_values("y", "BF16", np.array(bits, np.uint16)) == [1.0, -3.140625, 2.0**127]


def test_values_are_written_flat() -> None:
    assert write_values("y", "BOOL", np.array([[True], [False]])) == [True, False]
    assert write_values("y", "UINT64", np.array([[2**64 - 1, 0]], np.uint64)) == [2**64 - 1, 0]
