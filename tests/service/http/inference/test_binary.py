"""The binary tensor extension, compression, and requests that are nothing but bytes."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from export.manifest import DType
from service.http.inference.request import read_inference
from tests.service.http.world import World, output, serving, step
from tests.service.tensor_models import INITIAL_TOTAL

Array = npt.NDArray[Any]
NUMBERS: dict[str, tuple[DType, str]] = {
    "BOOL": ("bool", "?"), "UINT8": ("uint8", "u1"), "UINT16": ("uint16", "<u2"), "UINT32": ("uint32", "<u4"),
    "UINT64": ("uint64", "<u8"), "INT8": ("int8", "i1"), "INT16": ("int16", "<i2"), "INT32": ("int32", "<i4"),
    "INT64": ("int64", "<i8"), "FP16": ("float16", "<f2"), "FP32": ("float32", "<f4"), "FP64": ("float64", "<f8"),
    "BF16": ("bfloat16", "<u2"),
}  # fmt: skip


def pack(header: dict[str, Any], *parts: bytes) -> tuple[bytes, str]:
    """A body, and the length of its JSON."""
    text = json.dumps(header).encode()
    return text + b"".join(parts), str(len(text))


def tensor(datatype: str, shape: list[int], data: bytes, name: str = "x") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}


async def ask(
    world: World, model: str, body: bytes, length: str | None = None, **headers: str
) -> tuple[Any, bytes, Any]:
    """The JSON of an answer, the bytes behind it, and its headers."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    if length is not None:
        names["Inference-Header-Content-Length"] = length
    url = f"http://{world.url}/v2/models/{model}/infer"
    async with world.session.post(url, data=body, headers={"Accept-Encoding": "identity", **names}) as response:
        data = await response.read()
        end = int(response.headers.get("Inference-Header-Content-Length", len(data)))
        return json.loads(data[:end]), data[end:], response.headers


async def refusal(world: World, body: bytes, length: str | None = None, **headers: str) -> tuple[int, str]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    if length is not None:
        names["Inference-Header-Content-Length"] = length
    url = f"http://{world.url}/v2/models/same-int32/infer"
    async with world.session.post(url, data=body, headers=names) as response:
        return response.status, (await response.json())["error"]


async def test_every_number_type_goes_and_comes_bit_for_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    async with serving(tmp_path, [dtype for dtype, _ in NUMBERS.values()]) as world:
        for datatype, (dtype, layout) in NUMBERS.items():
            raw = generator.integers(0, 2 if datatype == "BOOL" else 256, 6 * np.dtype(layout).itemsize, np.uint8)
            data = raw.tobytes()
            if datatype in ("FP16", "BF16", "FP32", "FP64"):  # the bits of a NaN that signals need not survive
                data = (np.arange(6) * 64 if datatype == "BF16" else np.linspace(-3, 3, 6)).astype(layout).tobytes()
            header = {"inputs": [tensor(datatype, [3, 2], data)], "parameters": {"binary_data_output": True}}
            answer, binary, headers = await ask(world, f"same-{dtype}", *pack(header, data))
            (told,) = answer["outputs"]
            assert (told["name"], told["datatype"], told["shape"]) == ("y", datatype, [3, 2])
            assert told["parameters"] == {"binary_data_size": len(data)} and "data" not in told
            assert binary == data
            assert headers["Content-Type"] == "application/octet-stream"


async def test_every_type_that_has_json_goes_as_json_too(tmp_path: Path) -> None:
    async with serving(tmp_path, [dtype for dtype, _ in NUMBERS.values()] + ["string"]) as world:
        values: dict[str, list[Any]] = {name: [0, 1, 1, 0] for name in NUMBERS if name not in ("FP16", "BF16")}
        values |= {
            "BOOL": [True, False, False, True],
            "BYTES": ["a", "", "ü", "\0"],
            "FP64": [0.1, -1e300, 5e-324, 0.0],
        }
        for datatype, data in values.items():
            dtype = "string" if datatype == "BYTES" else NUMBERS[datatype][0]
            header = {"inputs": [{"name": "x", "datatype": datatype, "shape": [2, 2], "data": data}]}
            answer, binary, _ = await ask(world, f"same-{dtype}", *pack(header))
            assert answer["outputs"] == [{"name": "y", "datatype": datatype, "shape": [2, 2], "data": data}]
            assert binary == b""


async def test_half_floats_come_as_json_numbers(tmp_path: Path) -> None:
    async with serving(tmp_path, ["float16", "bfloat16"]) as world:
        for model, datatype, data in (
            ("same-float16", "FP16", np.array([[0.5, -3.0]], "<f2").tobytes()),
            ("same-bfloat16", "BF16", np.array([0.5, -3.0], "<f4").view("<u2")[1::2].tobytes()),
        ):
            header = {"inputs": [tensor(datatype, [1, 2], data)]}
            answer, _, _ = await ask(world, model, *pack(header, data))
            assert answer["outputs"][0]["data"] == [0.5, -3.0]


async def test_bytes_are_counted_before_each_element(tmp_path: Path) -> None:
    data = b"".join(len(part).to_bytes(4, "little") + part for part in (b"ab", b"", "ü".encode(), b"x" * 300))
    async with serving(tmp_path, ["string"]) as world:
        header = {
            "inputs": [tensor("BYTES", [2, 2], data)],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
        answer, binary, _ = await ask(world, "same-string", *pack(header, data))
        assert binary == data and answer["outputs"][0]["parameters"] == {"binary_data_size": len(data)}


async def test_an_output_says_for_itself_whether_it_is_binary(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        named = [{"name": "total", "parameters": {"binary_data": False}}, {"name": "count"}]
        body = step([2], start=True, outputs=named, parameters={"binary_data_output": True})
        answer, binary, _ = await ask(world, "sum", *pack(body))
        assert output({"outputs": answer["outputs"][:1]}, "total") == [INITIAL_TOTAL + 2]
        assert np.frombuffer(binary, "<i8").tolist() == [1]


async def test_inputs_of_both_kinds_in_one_request(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        body, data = step([2], start=True), np.array([3, 4], "<f4").tobytes()
        body["inputs"][0] = tensor("FP32", [1, 2], data, "values")
        answer, _, _ = await ask(world, "sum", *pack(body, data))
        assert output(answer, "total") == [INITIAL_TOTAL + 7]


async def test_empty_tensors(tmp_path: Path) -> None:
    async with serving(tmp_path, ["int32"]) as world:
        header = {"inputs": [tensor("INT32", [2, 0], b"")], "parameters": {"binary_data_output": True}}
        answer, binary, _ = await ask(world, "same-int32", *pack(header))
        assert answer["outputs"][0]["shape"] == [2, 0] and binary == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_bodies_may_be_compressed_both_ways(tmp_path: Path, encoding: str) -> None:
    pack_up, unpack = (gzip.compress, gzip.decompress) if encoding == "gzip" else (zlib.compress, zlib.decompress)
    data = np.arange(1000, dtype="<i4").tobytes()
    async with serving(tmp_path, ["int32"]) as world:
        header = {"inputs": [tensor("INT32", [1, 1000], data)], "parameters": {"binary_data_output": True}}
        body, length = pack(header, data)
        asked = {"Content-Encoding": encoding, "Accept-Encoding": f"br;q=1.0, {encoding};q=0.5"}
        url = f"http://{world.url}/v2/models/same-int32/infer"
        headers = {**asked, "Inference-Header-Content-Length": length}
        async with world.session.post(url, data=pack_up(body), headers=headers, auto_decompress=False) as response:
            assert response.status == 200 and response.headers["Content-Encoding"] == encoding
            end = int(response.headers["Inference-Header-Content-Length"])
            assert unpack(await response.read())[end:] == data


async def test_an_answer_is_compressed_only_where_that_is_asked_for_and_worth_it(tmp_path: Path) -> None:
    async with serving(tmp_path, ["int32"]) as world:
        for size, accepted, expected in (
            (4, "gzip", None),
            (999, "gzip;q=0, br", None),
            (999, "*", None),
            (999, "gzip", "gzip"),
        ):
            data = np.zeros(size, "<i4").tobytes()
            header = {"inputs": [tensor("INT32", [1, size], data)], "parameters": {"binary_data_output": True}}
            body, length = pack(header, data)
            headers = {"Accept-Encoding": accepted, "Inference-Header-Content-Length": length}
            url = f"http://{world.url}/v2/models/same-int32/infer"
            async with world.session.post(url, data=body, headers=headers, auto_decompress=False) as response:
                assert response.status == 200 and response.headers.get("Content-Encoding") == expected


async def test_bodies_that_are_not_what_they_say(tmp_path: Path) -> None:
    data = np.arange(6, dtype="<i4").tobytes()
    body, length = pack({"inputs": [tensor("INT32", [2, 3], data)]}, data)
    short, short_length = pack({"inputs": [tensor("INT32", [2, 3], data)]}, data[:-1])
    small, small_length = pack({"inputs": [tensor("INT32", [2, 3], data[:-4])]}, data[:-4])
    squeezed = gzip.compress(body)
    async with serving(tmp_path, ["int32"], max_message_bytes=4096) as world:
        cases: list[tuple[bytes, str | None, dict[str, str], int, str]] = [
            (body + b"!", length, {}, 400, "unexpected additional input data for model 'same-int32'"),
            (short, short_length, {}, 400, "unexpected size for input 'x', expecting 1 additional bytes"),
            (
                small,
                small_length,
                {},
                400,
                "input byte size mismatch for input 'x' for model 'same-int32'. Expected 24",
            ),
            (body, "x", {}, 400, "Unable to parse Inference-Header-Content-Length, got: x"),
            (body, "-1", {}, 400, "Unable to parse Inference-Header-Content-Length, got: -1"),
            (body, "²", {}, 400, "Unable to parse Inference-Header-Content-Length"),
            (body, "99999", {}, 400, f"inference header size should be in range (0, {len(body)}), got: 99999"),
            (body, None, {}, 400, "failed to parse the request JSON buffer"),
            (body, length, {"content_encoding": "br"}, 501, "Unsupported compression type"),
            (body, length, {"content_encoding": "gzip"}, 400, "expected a body in gzip, got something else"),
            (body, length, {"content_encoding": "deflate"}, 400, "expected a body in deflate, got something else"),
            (squeezed[:-5], length, {"content_encoding": "gzip"}, 400, "expected a whole gzip stream"),
            (squeezed + b"x", length, {"content_encoding": "gzip"}, 400, "expected one gzip stream"),
            (
                gzip.compress(bytes(10**6)),
                length,
                {"content_encoding": "gzip"},
                413,
                "expected at most 4096 bytes when",
            ),
            (gzip.compress(bytes(4097)), length, {"content_encoding": "gzip"}, 413, "expected at most 4096 bytes when"),
            (bytes(4097), length, {}, 413, "expected a body of at most 4096 bytes, got 4097"),
        ]
        for case, said, headers, status, words in cases:
            told, error = await refusal(world, case, said, **headers)
            assert (told, error[: len(words)]) == (status, words)
        answer, _, _ = await ask(world, "same-int32", body, length)
        assert output(answer, "y") == list(range(6))


async def test_a_body_of_nothing_but_bytes_is_one_row(tmp_path: Path) -> None:
    data = np.arange(5, dtype="<i4").tobytes()
    async with serving(tmp_path, ["int32", "string"]) as world:
        answer, binary, _ = await ask(world, "same-int32", data, "0")
        assert answer["outputs"][0]["shape"] == [1, 5] and binary == data
        answer, _, _ = await ask(world, "same-int32", data[:-1], "0")
        assert answer["error"].startswith("input byte size mismatch for input 'x'")
        answer, _, _ = await ask(world, "sum", data, "0")
        assert answer["error"].startswith("Raw request must only have 1 input (found 2)")
        answer, _, _ = await ask(world, "same-string", data, "0")
        assert answer["error"].startswith("For BYTE datatype raw input 'x'")
        answer, _, _ = await ask(world, "other", data, "0")
        assert answer["error"].startswith("Request for unknown model")


async def test_a_large_request_is_read_and_written_whole(tmp_path: Path) -> None:
    values = list(range(100_000))
    async with serving(tmp_path, ["int32"]) as world:
        header = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [1, len(values)], "data": values}]}
        answer, _, _ = await ask(world, "same-int32", *pack(header))
        assert output(answer, "y") == values


@pytest.mark.parametrize("pad", range(9))
def test_numbers_lie_where_the_machine_wants_them_whatever_the_length_of_the_json(pad: int) -> None:
    data = np.arange(4, dtype="<f8").tobytes()
    body, length = pack({"id": "x" * pad, "inputs": [tensor("FP64", [4], data)]}, data)
    request, _ = read_inference(body, int(length), "m", "", "", lambda name, parameters: None)
    array = request.inputs[0].array
    assert array.ctypes.data % 8 == 0 and array.tolist() == [0.0, 1.0, 2.0, 3.0]
