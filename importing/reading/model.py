"""Read an ONNX model from a file that nobody vouches for."""

from pathlib import Path

import onnx

from importing.errors import ImportRefused
from importing.reading.bytes import check_wire, read_bytes
from importing.reading.external import load_external
from importing.reading.limits import DEFAULT_LIMITS, ReadLimits
from importing.reading.process import try_model
from importing.reading.trial import Trial
from importing.reading.words import one_line


def read_model(
    path: Path, allow_external: bool = False, allow_custom: bool = False, limits: ReadLimits = DEFAULT_LIMITS
) -> onnx.ModelProto:
    """Read a model that can be parsed, checked and opened by the runtime, at a bounded cost.

    Everything that could hang or end a process is first done in another one. What is parsed here afterwards are the
    very bytes that passed there.

    Args:
        path: Of the file.
        allow_external: Whether it may keep weights in other files; even then never outside its own folder.
        allow_custom: Whether it may have operators that the runtime does not bring along.
        limits: What it may cost.

    Returns:
        The model, with external data read into it.

    Raises:
        ImportRefused: Why not, in one line.
    """
    content = read_bytes(path, limits.max_file_bytes)
    try:
        check_wire(content)
        folder = path.resolve().parent
        try_model(content, Trial(str(folder), len(content), allow_external, allow_custom, limits))
        model = onnx.ModelProto.FromString(content)
        load_external(model, folder, allow_external, limits.max_file_bytes - len(content))
    except ImportRefused as refused:
        reason = str(refused)
        raise type(refused)(f"{one_line(str(path))}: {reason}") from None
    return model
