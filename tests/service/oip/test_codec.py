"""The raw bytes of tensors, against Python's own struct."""

import struct
from collections.abc import Sequence

import numpy as np
import pytest

from service.oip.codec import MAX_TEXTS, decode, element_bytes, encode, encode_into, encoded_bytes
from service.oip.errors import OipError
from service.oip.messages import DATATYPES, Tensor

# Of each number type: struct's letter and values at its edges.
NUMBERS: dict[str, tuple[str, list[int | float | bool]]] = {
    "BOOL": ("?", [True, False, True]),
    "UINT8": ("B", [0, 7, 2**8 - 1]),
    "UINT16": ("H", [0, 7, 2**16 - 1]),
    "UINT32": ("I", [0, 7, 2**32 - 1]),
    "UINT64": ("Q", [0, 7, 2**64 - 1]),
    "INT8": ("b", [-(2**7), -1, 2**7 - 1]),
    "INT16": ("h", [-(2**15), -1, 2**15 - 1]),
    "INT32": ("i", [-(2**31), -1, 2**31 - 1]),
    "INT64": ("q", [-(2**63), -1, 2**63 - 1]),
    "FP16": ("e", [0.5, -2.0, 65504.0]),
    "FP32": ("f", [0.5, -2.0, 2.0**127]),
    "FP64": ("d", [0.1, -2.0, 1e300]),
    "BF16": ("H", [0x3F80, 0xC000, 0x7F7F]),  # 1, -2 and the largest, as bits
}


def strings(elements: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def refusal(data: bytes, datatype: str, shape: Sequence[int]) -> str:
    with pytest.raises(OipError) as caught:
        decode(data, datatype, shape, "x", "m")
    assert caught.value.code == "invalid_argument"
    return caught.value.message


def test_every_type_of_the_protocol_is_tried() -> None:
    assert {*NUMBERS, "BYTES"} == set(DATATYPES)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_are_little_endian_and_row_major(datatype: str) -> None:
    letter, values = NUMBERS[datatype]
    data = struct.pack(f"<6{letter}", *values, *values[::-1])
    array = decode(data, datatype, [2, 3], "x", "m")
    assert array.dtype == DATATYPES[datatype]
    assert array.tolist() == [values, values[::-1]]
    tensor = Tensor("y", datatype, array)
    assert encode(tensor) == data
    assert encoded_bytes(tensor) == len(data) == 6 * element_bytes(datatype)
    turned = Tensor("y", datatype, array.T)  # not contiguous
    assert encode(turned) == struct.pack(f"<6{letter}", *np.array(array.T).ravel().tolist())


def test_numbers_are_not_copied() -> None:
    memory = bytearray(struct.pack("<2i", 1, 2))
    array = decode(memoryview(memory), "INT32", [2], "x", "m")
    struct.pack_into("<i", memory, 4, 9)
    assert array.tolist() == [1, 9]


def test_numbers_at_an_odd_address_are_made_usable() -> None:
    memory = b"\0" + struct.pack("<2d", 1.5, 2.5)
    array = decode(memoryview(memory)[1:], "FP64", [2], "x", "m")
    assert array.flags.aligned
    assert array.tolist() == [1.5, 2.5]


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("shape", [[0], [1, 0], [0, 3], [2, 0, 4]])
def test_tensors_without_elements(datatype: str, shape: list[int]) -> None:
    array = decode(b"", datatype, shape, "x", "m")
    assert array.shape == tuple(shape)
    tensor = Tensor("y", datatype, array)
    assert encode(tensor) == b""
    encode_into(memoryview(bytearray()), tensor)


def test_a_scalar_has_one_element() -> None:
    array = decode(struct.pack("<f", 2.5), "FP32", [], "x", "m")
    assert (array.shape, array.item()) == ((), 2.5)


def test_strings_are_bytes_of_any_kind_and_length() -> None:
    elements = [b"", b"\0", "größe 字".encode(), b"\xff\xfe", b"a" * 70_000, b"\0\0\0\0"]
    data = strings(elements)
    array = decode(data, "BYTES", [2, 3], "x", "m")
    assert array.shape == (2, 3)
    assert array.reshape(-1).tolist() == elements
    tensor = Tensor("y", "BYTES", array)
    assert encode(tensor) == data
    assert encoded_bytes(tensor) == len(data)


@pytest.mark.parametrize("datatype", [*NUMBERS, "BYTES"])
def test_writing_to_memory_writes_what_encoding_gives_and_nothing_more(datatype: str) -> None:
    if datatype == "BYTES":
        array = np.array([b"ab", b"", b"c"], np.object_)
    else:
        array = np.array(NUMBERS[datatype][1], DATATYPES[datatype])
    tensor = Tensor("y", datatype, array)
    memory = bytearray(b"\xaa" * (encoded_bytes(tensor) + 5))
    encode_into(memoryview(memory), tensor)
    assert memory == encode(tensor) + b"\xaa" * 5


def test_too_few_or_too_many_bytes_are_refused() -> None:
    expected = "input byte size mismatch for input 'x' for model 'm'. Expected 8, got "
    assert refusal(b"\0" * 7, "FP32", [1, 2]) == expected + "7"
    assert refusal(b"\0" * 12, "FP32", [1, 2]) == expected + "12"
    assert refusal(b"", "FP32", [1, 2]) == expected + "0"
    assert refusal(b"\0", "FP32", [0]) == "input byte size mismatch for input 'x' for model 'm'. Expected 0, got 1"


def test_strings_that_do_not_add_up_are_refused() -> None:
    where = "for inference input 'x' for model 'm'"
    assert refusal(b"\1\0", "BYTES", [1]) == (
        f"incomplete string length indicator {where}, expecting 4 bytes but only 2 bytes available. "
        "Please make sure the string length indicator is in one buffer."
    )
    assert refusal(strings([b"abc"])[:-1], "BYTES", [1]) == (
        f"incomplete string data {where}, expecting string of length 3 but only 2 bytes available"
    )
    assert refusal(strings([b"a", b"b"]), "BYTES", [1]) == (
        f"unexpected number of string elements 2 {where}, expecting 1"
    )
    assert refusal(strings([b"a"]), "BYTES", [3]) == f"expected 3 string elements {where}, got 1"
    assert refusal(struct.pack("<I", 2**32 - 1), "BYTES", [1]).endswith("but only 0 bytes available")
    assert refusal(strings([b"ab", b"abc"])[:-1], "BYTES", [3]) == (
        f"incomplete string data {where}, expecting string of length 3 but only 2 bytes available"
    )
    assert refusal(strings([b"ab"]) + b"\0" * 3, "BYTES", [2]).startswith(f"incomplete string length indicator {where}")
    assert refusal(strings([b"ab"]) + b"\0" * 3, "BYTES", [1]).startswith(f"incomplete string length indicator {where}")
    assert refusal(b"\0" * 4, "BYTES", [0]) == f"unexpected number of string elements 1 {where}, expecting 0"


def test_there_are_no_more_strings_than_the_loop_has_time_for() -> None:
    data = b"\0\0\0\0" * MAX_TEXTS
    assert decode(data, "BYTES", [2, MAX_TEXTS // 2], "x", "m").reshape(-1).tolist() == [b""] * MAX_TEXTS
    assert refusal(data + b"\0\0\0\0", "BYTES", [MAX_TEXTS + 1]) == (
        f"unexpected number of string elements {MAX_TEXTS + 1} for inference input 'x' for model 'm', "
        f"expecting at most {MAX_TEXTS}"
    )


def test_a_type_that_is_none_is_refused() -> None:
    message = refusal(b"", "FLOAT", [0])
    assert message.startswith("inference input 'x' data-type is 'FLOAT' for model 'm', expected one of BOOL, UINT8")


@pytest.mark.parametrize("shape", [[-1], [-2, -3], [2**40, 2**40], [1] * 33, [0, -1], [2**40, 0, 2**40]])
def test_a_shape_that_is_none_is_refused(shape: list[int]) -> None:
    assert refusal(b"", "INT8", shape).startswith(
        "unexpected shape for input 'x' for model 'm'. Expected at most 32 dim"
    )


@pytest.mark.parametrize("datatype", DATATYPES)
def test_the_largest_shape_without_elements_is_one(datatype: str) -> None:
    assert decode(b"", datatype, [0, 2**58], "x", "m").shape == (0, 2**58)
    assert decode(b"", datatype, [1] * 31 + [0], "x", "m").size == 0


def test_a_boolean_that_is_neither_is_refused() -> None:
    assert refusal(b"\1\2", "BOOL", [2]) == "unexpected value for input 'x' for model 'm'. Expected 0 or 1, got 2"
