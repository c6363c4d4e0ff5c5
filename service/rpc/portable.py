"""The state of a session as bytes that another server with the same version of the model can open, and back.

The format is safetensors (https://github.com/huggingface/safetensors: a JSON header, then raw tensors; nothing in it
is executed), with what the state is of in its metadata and a SHA-256 over all of that and the tensors. The checksum
finds damage, not malice: whoever can make a state can make its checksum, so everything is checked all the same.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from export.manifest import Manifest, StateSpec
from service.engine.interface import SessionState, StateTensors
from service.errors import InvalidInput

SCHEMA_VERSION = "1"
MAX_HEADER_BYTES = 65536
LENGTH_BYTES = 8  # of the header's length, little-endian, with which the format begins
MAX_STEPS = 2**63 - 1

Array = npt.NDArray[Any]


class Origin(NamedTuple):
    """What a portable state says of itself, before the rest of it was looked at."""

    model: str
    version: int
    num_steps: int
    sha256: str


def pack(manifest: Manifest, state: SessionState) -> bytes:
    """Make the bytes of a state."""
    tensors = {spec.name: np.ascontiguousarray(state.tensors[spec.name]) for spec in manifest.states}
    about = {
        "schema_version": SCHEMA_VERSION,
        "model": manifest.name,
        "version": str(manifest.version),
        "num_steps": str(state.num_steps),
    }
    return save(tensors, {**about, "sha256": _checksum(about, tensors)})


def origin(field: str, data: bytes) -> Origin:
    """Read what a state is of.

    Raises:
        InvalidInput: It is no portable state, or one of another schema.
    """
    about = _metadata(field, data)
    if about["schema_version"] != SCHEMA_VERSION:
        raise InvalidInput(field, f"a state of schema version {SCHEMA_VERSION}", _short(about["schema_version"]))
    version, num_steps = _count(field, "version", about), _count(field, "num_steps", about)
    return Origin(about["model"], version, num_steps, about["sha256"])


def unpack(field: str, data: bytes, manifest: Manifest) -> StateTensors:
    """Read the tensors of a state of a model.

    Args:
        field: Its path, for messages.
        data: As `pack` made it, or not.
        manifest: Of the model that `origin` names.

    Returns:
        By `StateSpec.name`, each of that state's shape and dtype.

    Raises:
        InvalidInput: It is damaged, or not a state of this model.
    """
    most = sum(_num_bytes(spec) for spec in manifest.states) + LENGTH_BYTES + MAX_HEADER_BYTES
    if len(data) > most:
        raise InvalidInput(field, f"at most {most} bytes", f"{len(data)} bytes")
    about = _metadata(field, data)
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError):  # KeyError: a type that NumPy does not have
        raise _damaged(field, "a header and tensors that fit together", "others") from None
    specs = {spec.name: spec for spec in manifest.states}
    if tensors.keys() != specs.keys():
        raise InvalidInput(field, f"the tensors {', '.join(sorted(specs))}", _short(", ".join(sorted(tensors))))
    for name, tensor in tensors.items():
        check_tensor(f"{field}.{name}", tensor, specs[name])
    if _checksum({name: about[name] for name in _CHECKED}, tensors) != about["sha256"]:
        raise _damaged(field, "the SHA-256 that it names", "another one")
    return tensors


def check_tensor(field: str, tensor: Array, spec: StateSpec) -> None:
    """Refuse a tensor that is not what a state is made of.

    Raises:
        InvalidInput: Its type or shape is another one, or it has values that are not finite.
    """
    if tensor.dtype.name != spec.dtype or tensor.shape != spec.shape:
        raise InvalidInput(
            field, f"{spec.dtype} of shape {list(spec.shape)}", f"{tensor.dtype.name} of shape {list(tensor.shape)}"
        )
    if not np.isfinite(tensor).all():
        raise InvalidInput(field, "finite values", "others")


_CHECKED = ("schema_version", "model", "version", "num_steps")


def _metadata(field: str, data: bytes) -> Mapping[str, str]:
    """Read the metadata of the header, all of it text, with every name that a state has."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if len(data) < LENGTH_BYTES or not 0 < length <= min(MAX_HEADER_BYTES, len(data) - LENGTH_BYTES):
        raise _damaged(field, "a header", f"{len(data)} bytes without one")
    try:
        header = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + length])
    except (ValueError, RecursionError):
        raise _damaged(field, "a header in JSON", "something else") from None
    about = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(about, dict) or not all(
        isinstance(text := about.get(name), str) and text.isascii() for name in (*_CHECKED, "sha256")
    ):
        raise _damaged(field, "a header that says what it is a state of", "one that does not")
    return about


def _count(field: str, name: str, about: Mapping[str, str]) -> int:
    text = about[name]
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_STEPS)) and int(text) <= MAX_STEPS):
        raise _damaged(field, f"a whole number as {name}", _short(text))
    return int(text)


def _checksum(about: Mapping[str, str], tensors: Mapping[str, Array]) -> str:
    """SHA-256 in hexadecimal, over lengths and contents: what is where cannot be confused."""
    digest = hashlib.sha256()
    for name in _CHECKED:
        _update(digest, about[name].encode(errors="surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        for part in (name, tensor.dtype.name, ",".join(map(str, tensor.shape))):
            _update(digest, part.encode(errors="surrogatepass"))
        _update(digest, tensor.tobytes())
    return digest.hexdigest()


def _update(digest: Any, part: bytes) -> None:
    digest.update(len(part).to_bytes(LENGTH_BYTES, "little"))
    digest.update(part)


def _num_bytes(spec: StateSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def _damaged(field: str, expected: str, got: str) -> InvalidInput:
    return InvalidInput(field, f"a state that was exported: {expected}", got)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."
