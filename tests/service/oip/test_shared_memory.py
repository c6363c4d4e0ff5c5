"""Regions of shared memory; objects are files of a folder, as they are in the system's own."""

import gc
import mmap
import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from service.oip import shared_memory
from service.oip.codec import decode
from service.oip.errors import Code, OipError
from service.oip.messages import Parameter, Tensor
from service.oip.shared_memory import Regions
from service.oip.shared_memory_tensors import place_of

PAGE = mmap.PAGESIZE


@pytest.fixture
def regions(tmp_path: Path) -> Regions:
    (tmp_path / "object").write_bytes(bytes(range(256)) * (2 * PAGE // 256))
    return Regions(True, tmp_path)


def refusal(code: Code, call: Callable[[], object]) -> str:
    with pytest.raises(OipError) as caught:
        call()
    assert caught.value.code == code
    return caught.value.message


def is_open(path: Path) -> bool:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return str(path) in [os.readlink(link) for link in links if os.path.islink(link)]


def read(regions: Regions, name: str, offset: int, byte_size: int) -> bytes:
    return bytes(regions.find(name).part(offset, byte_size))


@pytest.mark.parametrize("key", ["object", "/object"])
@pytest.mark.parametrize("offset", [0, 1, PAGE - 1, PAGE, PAGE + 7])
def test_a_region_is_the_part_of_the_object_that_was_named(regions: Regions, key: str, offset: int) -> None:
    regions.register("r", key, offset, 64)
    assert read(regions, "r", 0, 64) == bytes((offset + i) % 256 for i in range(64))
    assert read(regions, "r", 60, 4) == bytes((offset + i) % 256 for i in range(60, 64))


def test_what_either_side_writes_the_other_reads(regions: Regions, tmp_path: Path) -> None:
    regions.register("r", "object", 4, 8)
    with (tmp_path / "object").open("r+b") as file, mmap.mmap(file.fileno(), 0) as theirs:
        theirs[4:6] = b"\xaa\xbb"
        assert read(regions, "r", 0, 2) == b"\xaa\xbb"
        regions.find("r").part(6, 2)[:] = b"\xcc\xdd"
        assert theirs[10:12] == b"\xcc\xdd"


def test_objects_of_the_system_are_found_by_their_keys() -> None:
    memory = SharedMemory(create=True, size=16)
    try:
        buffer = memory.buf
        assert buffer is not None
        buffer[:4] = b"here"
        buffer.release()
        regions = Regions(True)
        regions.register("r", f"/{memory.name.removeprefix('/')}", 0, 16)
        assert read(regions, "r", 0, 4) == b"here"
    finally:
        memory.close()
        memory.unlink()


def test_an_input_is_a_view_that_outlives_its_region(regions: Regions, tmp_path: Path) -> None:
    regions.register("r", "object", 0, PAGE)
    place = place_of(regions, "x", {"shared_memory_region": "r", "shared_memory_byte_size": 8})
    assert place is not None
    array = decode(place.memory.toreadonly(), "INT32", [2], "x", "m")
    assert not array.flags.writeable
    regions.unregister("r")
    del place
    gc.collect()
    with (tmp_path / "object").open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<2i", 5, 6), 0)
    assert array.tolist() == [5, 6]  # still mapped: nothing was copied


def test_a_forgotten_region_is_unmapped_once_nobody_uses_it(regions: Regions, tmp_path: Path) -> None:
    def is_mapped() -> bool:
        gc.collect()
        return str(tmp_path / "object") in Path("/proc/self/maps").read_text()

    regions.register("r", "object", 0, PAGE)
    view = regions.find("r").part(0, 8)
    regions.unregister("")
    assert is_mapped()
    view.release()
    assert not is_mapped()
    assert not is_open(tmp_path / "object")


def test_names_are_taken_once_and_free_once_forgotten(regions: Regions) -> None:
    regions.register("r", "object", 0, 8)
    again = refusal("already_exists", lambda: regions.register("r", "object", 8, 8))
    assert again == "shared memory region 'r' already in manager"
    assert read(regions, "r", 0, 1) == b"\0"
    regions.unregister("r")
    regions.unregister("r")  # as the reference server: not an error
    regions.register("r", "object", 8, 8)
    assert read(regions, "r", 0, 1) == b"\x08"


def test_status_tells_of_one_or_all(regions: Regions) -> None:
    regions.register("a", "object", 0, 8)
    regions.register("b", "/object", PAGE + 1, 16)
    told = [(region.name, region.key, region.offset, region.byte_size) for region in regions.status("")]
    assert told == [("a", "object", 0, 8), ("b", "/object", PAGE + 1, 16)]
    assert [region.name for region in regions.status("b")] == ["b"]
    unknown = refusal("not_found", lambda: regions.status("c"))
    assert unknown == "Unable to find system shared memory region: 'c'"


@pytest.mark.parametrize(
    "key",
    ["", "/", "..", "/..", ".", "../object", "/../object", "//object", "folder/object", "a\0b", "/folder/../object"],
)
def test_keys_that_lead_elsewhere_are_refused(regions: Regions, tmp_path: Path, key: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/object").write_bytes(b"0" * 16)
    (tmp_path.parent / "object").write_bytes(b"0" * 16)
    message = refusal("invalid_argument", lambda: regions.register("r", key, 0, 8))
    assert message == f"cannot register shared memory region 'r' - invalid shm key '{key}'"


def test_only_plain_objects_are_opened(regions: Regions, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "object")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for key in ("nothing", "folder", "link", "pipe", "socket", "x" * 300, "\udcff\ud800"):
            message = refusal("invalid_argument", partial(regions.register, "r", key, 0, 8))
            assert message == f"Unable to open shared memory region: '{key}'"
    assert not regions.status("")


@pytest.mark.parametrize(
    ("offset", "byte_size"),
    [(0, 2 * PAGE + 1), (2 * PAGE, 1), (2 * PAGE - 1, 2), (0, 0), (2**64 - 1, 1), (0, 2**64 - 1), (2**63, 2**63)],
)
def test_a_region_must_lie_within_its_object(regions: Regions, offset: int, byte_size: int) -> None:
    message = refusal("invalid_argument", lambda: regions.register("r", "object", offset, byte_size))
    assert message == "failed to register shared memory region 'r': invalid args"
    regions.register("r", "object", 2 * PAGE - 1, 1)  # the last byte is within


def test_there_is_a_bound_on_regions(regions: Regions) -> None:
    with mock.patch.object(shared_memory, "MAX_REGIONS", 2):
        regions.register("a", "object", 0, 8)
        regions.register("b", "object", 0, 8)
        message = refusal("unavailable", lambda: regions.register("c", "object", 0, 8))
        assert message == "failed to register shared memory region 'c': expected at most 2 regions, got one more"
    for name in ("", "n" * 256):
        refusal("invalid_argument", partial(regions.register, name, "object", 0, 8))


def test_parts_must_lie_within_their_region(regions: Regions) -> None:
    regions.register("r", "object", 8, 16)
    region = regions.find("r")
    for offset in (16, 17, -1, 2**70):
        message = refusal("invalid_argument", partial(region.part, offset, 0))
        assert message == "Invalid offset for shared memory region: 'r'"
    for offset, byte_size in ((0, 17), (15, 2), (0, -1), (8, 2**70)):
        message = refusal("invalid_argument", partial(region.part, offset, byte_size))
        assert message == "Invalid offset + byte size for shared memory region: 'r'"
    assert region.part(15, 1).nbytes == 1
    assert refusal("not_found", lambda: regions.find("s")) == "Unable to find shared memory region: 's'"


def test_an_object_that_has_shrunk_is_not_touched(regions: Regions, tmp_path: Path) -> None:
    regions.register("r", "object", 0, 2 * PAGE)
    place = place_of(regions, "y", {"shared_memory_region": "r", "shared_memory_byte_size": 2 * PAGE})
    assert place is not None
    os.truncate(tmp_path / "object", PAGE)
    tensor = Tensor("y", "FP32", np.zeros(4, np.float32))
    expected = "Invalid shared memory region: 'r', which has shrunk"
    assert refusal("invalid_argument", lambda: regions.find("r").part(0, 8)) == expected
    assert refusal("invalid_argument", lambda: place.write(tensor)) == expected


def test_an_output_goes_to_its_place_if_there_is_room(regions: Regions) -> None:
    regions.register("r", "object", 0, 64)
    parameters: dict[str, Parameter] = {
        "shared_memory_region": "r",
        "shared_memory_offset": 16,
        "shared_memory_byte_size": 8,
    }
    place = place_of(regions, "y", parameters)
    assert place is not None
    answered = place.write(Tensor("y", "INT16", np.array([[1, -2, 3]], np.int16), {"kept": True}))
    assert answered.parameters == {
        "kept": True, "shared_memory_region": "r", "shared_memory_offset": 16, "shared_memory_byte_size": 6,
    }  # fmt: skip
    assert read(regions, "r", 14, 12) == bytes([14, 15]) + struct.pack("<3h", 1, -2, 3) + bytes([22, 23, 24, 25])
    too_large = Tensor("y", "INT64", np.zeros(2, np.int64))
    assert refusal("internal", lambda: place.write(too_large)) == (
        "shared memory size specified with the request for output 'y' (8 bytes) should be at least 16 bytes to hold "
        "the results"
    )


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"shared_memory_offset": 1}, "'shared_memory_offset' can not be specified without 'shared_memory_region' "),
        ({"shared_memory_byte_size": 1}, "'shared_memory_byte_size' can not be specified without 'shared_memory_re"),
        ({"shared_memory_region": "r"}, "'shared_memory_byte_size' must be specified along with 'shared_memory_reg"),
        ({"shared_memory_region": 1}, "invalid value type for 'shared_memory_region' parameter for tensor 'x', exp"),
        (
            {"shared_memory_region": "r", "shared_memory_byte_size": 1.0},
            "invalid value type for 'shared_memory_byte_size' parameter for tensor 'x', expected int64_param.",
        ),
        (
            {"shared_memory_region": "r", "shared_memory_byte_size": 1, "shared_memory_offset": True},
            "invalid value type for 'shared_memory_offset' parameter for tensor 'x', expected int64_param.",
        ),
    ],
)
def test_parameters_that_do_not_say_where_are_refused(
    regions: Regions, parameters: dict[str, Parameter], expected: str
) -> None:
    regions.register("r", "object", 0, 64)
    assert refusal("invalid_argument", lambda: place_of(regions, "x", parameters)).startswith(expected)


def test_a_tensor_without_parameters_lies_nowhere(regions: Regions) -> None:
    assert place_of(regions, "x", {}) is None
    assert place_of(regions, "x", {"classification": 3}) is None


def test_disabled_regions_answer_nothing(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"0" * 16)
    disabled = Regions(False, tmp_path)
    calls: list[Callable[[], object]] = [
        lambda: disabled.register("r", "object", 0, 8),
        lambda: disabled.status(""),
        lambda: disabled.unregister(""),
        lambda: disabled.find("r"),
    ]
    for call in calls:
        assert refusal("unimplemented", call).startswith("Client shared memory is disabled. ")
