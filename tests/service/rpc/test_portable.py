"""States as bytes: there and back, and everything that is not one refused."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from export.manifest import StateSpec
from service.engine.interface import SessionState
from service.errors import InvalidInput
from service.rpc.portable import MAX_HEADER_BYTES, origin, pack, unpack
from tests.service.rpc.world import make_manifest

SPECS = (
    StateSpec(name="hidden_0", dtype="float32", shape=(4,)),
    StateSpec(name="cell_0", dtype="float32", shape=(2, 3)),
)
MANIFEST = make_manifest("lm", "language_model").model_copy(update={"states": SPECS})


def state(seed: int = 0, num_steps: int = 5) -> SessionState:
    draw = np.random.default_rng(seed)
    return SessionState({s.name: draw.standard_normal(s.shape).astype(np.float32) for s in SPECS}, num_steps)


def header(data: bytes) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return found


def forged(tensors: dict[str, np.ndarray], **metadata: str) -> bytes:
    """A state that somebody made who knows the format but for the checksum."""
    return save(tensors, {**header(pack(MANIFEST, state()))["__metadata__"], **metadata})


def test_a_state_comes_back_bit_for_bit_and_says_what_it_is() -> None:
    before = state(1, num_steps=2**40)
    before.tensors["hidden_0"][:2] = (-0.0, np.float32(1e-45))
    data = pack(MANIFEST, before)
    named = origin("x", data)
    assert (named.model, named.version, named.num_steps) == ("lm", 3, 2**40)
    after = unpack("x", data, MANIFEST)
    assert set(after) == {"hidden_0", "cell_0"}
    for name, tensor in after.items():
        assert (tensor.dtype.name, tensor.shape) == ("float32", before.tensors[name].shape)
        assert tensor.tobytes() == before.tensors[name].tobytes()


def test_the_file_is_safetensors_and_its_checksum_can_be_made_by_hand() -> None:
    before = state(2)
    data = pack(MANIFEST, before)
    assert set(load(data)) == {"hidden_0", "cell_0"}
    parts: list[bytes] = [b"1", b"lm", b"3", b"5"]
    for name, shape in (("cell_0", b"2,3"), ("hidden_0", b"4")):
        parts += [name.encode(), b"float32", shape, before.tensors[name].tobytes()]
    expected = hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()
    assert header(data)["__metadata__"]["sha256"] == expected


def test_any_changed_byte_is_noticed() -> None:
    data = pack(MANIFEST, state(3))
    for at in range(len(data)):
        for flip in (1, 128):
            changed = bytearray(data)
            changed[at] ^= flip
            try:
                named = origin("x", bytes(changed))
                unpack("x", bytes(changed), MANIFEST)
            except InvalidInput:
                continue
            assert bytes(changed) == data or named == origin("x", data)
            # Only spaces with which the header is padded may change unnoticed.
            assert chr(data[at]).isspace(), (at, data[at : at + 1])


@given(st.binary(max_size=200), st.integers(0, 300))
def test_what_is_no_state_is_invalid_and_nothing_else(noise: bytes, at: int) -> None:
    data = pack(MANIFEST, state())
    for candidate in (noise, data[:at], data[:at] + noise + data[at:], noise + data):
        if candidate == data:
            continue
        with pytest.raises(InvalidInput):
            origin("x", candidate)
            unpack("x", candidate, MANIFEST)


def test_nothing_is_unpickled() -> None:
    with pytest.raises(InvalidInput):
        origin("x", pickle.dumps(state().tensors))


@pytest.mark.parametrize(
    ("tensors", "metadata", "says"),
    [
        ({"hidden_0": np.zeros(4, np.float32)}, {}, "the tensors cell_0, hidden_0"),
        ({"hidden_0": np.zeros(4, np.float32), "cell_0": np.zeros((2, 3), np.float64)}, {}, "float32 of shape"),
        ({"hidden_0": np.zeros(5, np.float32), "cell_0": np.zeros((2, 3), np.float32)}, {}, r"shape \[5\]"),
        ({"hidden_0": np.zeros(4, np.float32), "cell_0": np.full((2, 3), np.nan, np.float32)}, {}, "finite values"),
        ({"hidden_0": np.zeros(4, np.float32), "cell_0": np.zeros((2, 3), np.float32)}, {}, "the SHA-256"),
        ({s: t for s, t in state().tensors.items()}, {"num_steps": "6"}, "the SHA-256"),
        ({s: t for s, t in state().tensors.items()}, {"version": "2"}, "the SHA-256"),
        ({s: t for s, t in state().tensors.items()}, {"version": "-2"}, "a whole number as version"),
        ({s: t for s, t in state().tensors.items()}, {"num_steps": "9" * 30}, "a whole number as num_steps"),
        ({s: t for s, t in state().tensors.items()}, {"schema_version": "2"}, "schema version 1, got 2"),
        ({"hidden_0": np.zeros(2**20, np.float32)}, {}, "at most"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    tensors: dict[str, np.ndarray], metadata: dict[str, str], says: str
) -> None:
    data = forged(tensors, **metadata)
    with pytest.raises(InvalidInput, match=says):
        origin("x", data)
        unpack("x", data, MANIFEST)


@pytest.mark.parametrize(
    "text", [b"[" * 60_000, b'"' + b"x" * 50, b"[]", b"{}", b'{"__metadata__": 3}', b'{"__metadata__": {"model": 1}}']
)
def test_headers_that_say_nothing_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput, match="a state that was exported"):
        origin("x", len(text).to_bytes(8, "little") + text)


def test_a_header_is_not_read_beyond_its_bound() -> None:
    text = json.dumps({"__metadata__": {"x": "y" * MAX_HEADER_BYTES}}).encode()
    with pytest.raises(InvalidInput, match="a header, got"):
        origin("x", len(text).to_bytes(8, "little") + text)
