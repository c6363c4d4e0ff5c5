"""How one step is said to a peer and what the peer answers: bytes on the wire, without the peer's own client.

A request is (session, step, token), three integers; an answer is the best next token and its log-probability.
"""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types, https://protobuf.dev/programming-guides/encoding/
Answer = tuple[int, float]


@dataclass(frozen=True)
class Format:
    """A pair of functions.

    Args:
        encode: From session, step and token to the body of a request.
        decode: From the body of a response to the best token and its log-probability.
            Raises ValueError where the body says anything else.
    """

    encode: Callable[[int, int, int], bytes]
    decode: Callable[[bytes], Answer]


def varint(value: int) -> bytes:
    """Base 128, lowest group first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*groups, value))


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, a string or a message."""
    return varint(number << 3 | BYTES) + varint(len(content)) + content


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message in order: their numbers and contents (varints as 8 bytes).

    Raises:
        ValueError: The bytes are no protobuf message.
    """
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = _read_varint(message, at)
            yield tag >> 3, value.to_bytes(8, "little")
            continue
        if kind == BYTES:
            size, at = _read_varint(message, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"protobuf: expected wire type 0, 1, 2 or 5, got {kind}")
        if at + size > len(message):
            raise ValueError(f"protobuf: expected {size} bytes, got {len(message) - at}")
        yield tag >> 3, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError("protobuf: expected a number, got the end of the message")


def _answer(token: float, log_prob: float) -> Answer:
    if token != int(token):
        raise ValueError(f"token: expected a whole number, got {token}")
    return int(token), float(log_prob)


def _two_floats(raw: bytes) -> Answer:
    if len(raw) != 8:
        raise ValueError(f"expected two float32, got {len(raw)} bytes")
    return _answer(*struct.unpack("<2f", raw))


# Open Inference Protocol, inference.GRPCInferenceService/ModelInfer: one tensor in, INT64 [1, 3], one out, FP32 [1, 2].


def _oip_encode(session: int, step: int, token: int) -> bytes:
    tensor = field(1, b"request") + field(2, b"INT64") + field(3, varint(1) + varint(3))
    return field(1, b"step") + field(5, tensor) + field(7, struct.pack("<3q", session, step, token))


def _oip_decode(body: bytes) -> Answer:
    typed = b""
    for number, content in fields(body):
        if number == 6:  # raw_output_contents
            return _two_floats(content)
        if number == 5:  # outputs: an InferOutputTensor, whose contents (5) have fp32_contents (6)
            typed = b"".join(
                floats
                for inner, contents in fields(content)
                if inner == 5
                for kind, floats in fields(contents)
                if kind == 6
            )
    return _two_floats(typed)


OIP = Format(_oip_encode, _oip_decode)


# The same protocol's sequences, as our service speaks them: INT64 tokens [1, 1] in, top_tokens and top_log_probs out.
SEQUENCE = 64  # steps of a session, which then starts afresh


def _sequence_encode(session: int, step: int, token: int) -> bytes:
    def parameter(name: bytes, value: bytes) -> bytes:
        return field(4, field(1, name) + field(2, value))

    message = field(1, b"bench-lstm") + parameter(b"sequence_id", b"\x10" + varint(session + 1))
    if step == 0:
        message += parameter(b"sequence_start", b"\x08\x01")
    if step == SEQUENCE - 1:
        message += parameter(b"sequence_end", b"\x08\x01")
    tensor = field(1, b"tokens") + field(2, b"INT64") + field(3, varint(1) + varint(1))
    return message + field(5, tensor) + field(7, struct.pack("<q", token))


def _sequence_decode(body: bytes) -> Answer:
    found = list(fields(body))
    names = [next(name for inner, name in fields(output) if inner == 1) for number, output in found if number == 5]
    raw = dict(zip(names, (content for number, content in found if number == 6), strict=True))
    if raw.keys() != {b"top_tokens", b"top_log_probs"} or len(raw[b"top_tokens"]) != 8:
        raise ValueError(f"expected top_tokens and top_log_probs of one step, got {names}")
    return _answer(*struct.unpack("<q", raw[b"top_tokens"]), *struct.unpack("<f", raw[b"top_log_probs"][:4]))


SEQUENCES = Format(_sequence_encode, _sequence_decode)


# google.protobuf.BytesValue around packed numbers: what a service of one's own would define a message for.


def _packed_decode(body: bytes) -> Answer:
    for number, content in fields(body):
        if number == 1:
            return _two_floats(content)
    raise ValueError("expected a BytesValue, got an empty one")


PACKED = Format(
    lambda session, step, token: field(1, struct.pack("<3q", session, step, token)),
    _packed_decode,
)


# JSON


def _object_encode(session: int, step: int, token: int) -> bytes:
    return b'{"request":[%d,%d,%d]}' % (session, step, token)


def _object_decode(body: bytes) -> Answer:
    match json.loads(body):
        case {"answer": [int() | float() as token, float() as log_prob]}:
            return _answer(token, log_prob)
    raise ValueError(f'expected {{"answer": [token, log_prob]}}, got {body[:200]!r}')


JSON_OBJECT = Format(_object_encode, _object_decode)


def _rows_encode(session: int, step: int, token: int) -> bytes:
    return b'{"requests":[[%d,%d,%d]]}' % (session, step, token)


def _rows_decode(body: bytes) -> Answer:
    match json.loads(body):
        case [[int() | float() as token, float() as log_prob]]:
            return _answer(token, log_prob)
    raise ValueError(f"expected [[token, log_prob]], got {body[:200]!r}")


JSON_ROWS = Format(_rows_encode, _rows_decode)
