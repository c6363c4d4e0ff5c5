"""What the reader takes and bounds; each hostile file is refused in `test_hostile_command`."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from importing.errors import ImportRefused
from importing.reading.limits import ReadLimits
from importing.reading.model import read_model
from tests.importing.reading.hostile_files import MODEL, endless
from tests.importing.small_models import honest


@pytest.mark.slow
def test_external_data_inside_the_folder_is_read_into_the_model(tmp_path: Path) -> None:
    expected = honest()
    tensor = expected.graph.initializer[0]
    data = tensor.raw_data
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "weights.bin").write_bytes(b"12345678" + data)
    changed = honest()
    tensor = changed.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "below/weights.bin", "offset": "8", "length": str(len(data))}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / MODEL).write_bytes(changed.SerializeToString())
    read = read_model(tmp_path / MODEL, allow_external=True)
    np.testing.assert_array_equal(
        numpy_helper.to_array(read.graph.initializer[0]), numpy_helper.to_array(expected.graph.initializer[0])
    )


@pytest.mark.slow
def test_an_honest_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes(honest().SerializeToString())
    assert read_model(tmp_path / MODEL) == honest()


@pytest.mark.slow
def test_a_model_that_never_ends_is_refused(tmp_path: Path) -> None:
    endless(tmp_path)
    with pytest.raises(ImportRefused, match=r"running it took more than 3 s"):
        read_model(tmp_path / MODEL, limits=ReadLimits(max_seconds=3))


@pytest.mark.slow
def test_a_file_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    """Two bytes of a file become an empty node of a hundred: what it comes to is not seen from its size."""
    num_nodes = 8_000_000
    graph = b"\x0a\x00" * num_nodes
    length, size = b"", len(graph)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    (tmp_path / MODEL).write_bytes(b"\x08\x08\x3a" + length + bytes([size]) + graph)
    with pytest.raises(ImportRefused, match=r"needs more memory|do not parse|crashed"):
        read_model(tmp_path / MODEL, limits=ReadLimits(max_memory_bytes=1 << 20))


def test_reading_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes(honest().SerializeToString())
    with pytest.raises(ImportRefused):
        read_model(tmp_path / MODEL, limits=ReadLimits(max_seconds=0.001))
    children = Path("/proc/self/task").glob("*/children")
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for file in children for child in file.read_text().split()]
    assert not any(str(tmp_path).encode() in command for command in commands)
