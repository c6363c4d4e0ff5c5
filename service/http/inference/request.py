"""Reads the body of an inference: a JSON object, and behind it the bytes of the inputs that are not in it.

Source: the binary tensor data extension of the protocol,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from service.http.fields import Fields, objects, parameters, read_json, take, unparsed, whole
from service.http.inference.values import read_values
from service.oip.codec import MAX_DIMENSIONS, check_datatype, decode, num_elements
from service.oip.errors import OipError
from service.oip.messages import InferRequest, Parameters, RequestedOutput, Tensor
from service.oip.shared_memory_tensors import REGION, Place

FindPlace = Callable[[str, Parameters], Place | None]

BINARY_SIZE, BINARY, BINARY_OUTPUTS = "binary_data_size", "binary_data", "binary_data_output"
_SOURCES = "'data', 'binary_data_size' in 'parameters', 'shared_memory_region' in 'parameters'"


@dataclass(frozen=True)
class Forms:
    """How the outputs are to be written.

    Args:
        binary: Those that were not asked for by name.
        by_name: Whether as bytes, of those that were.
        places: Where they are to go instead, of those that lie in shared memory.
    """

    binary: bool = False
    by_name: Mapping[str, bool] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)

    def is_binary(self, name: str) -> bool:
        """Whether an output goes as bytes behind the JSON."""
        return self.by_name.get(name, self.binary)


def read_header_length(text: str | None, body_bytes: int) -> int:
    """Read the header that says how many bytes of a body are JSON; without it all are.

    Raises:
        OipError: It is not a number of bytes that the body has.
    """
    if text is None:
        return body_bytes
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise OipError("invalid_argument", f"Unable to parse Inference-Header-Content-Length, got: {text[:40]}")
    if int(text) > body_bytes:
        raise OipError(
            "invalid_argument", f"inference header size should be in range (0, {body_bytes}), got: {int(text)}"
        )
    return int(text)


def read_inference(
    body: bytes, header_length: int, model_name: str, model_version: str, caller: str, find: FindPlace
) -> tuple[InferRequest, Forms]:
    """Read a body.

    Args:
        body: All of it, decompressed.
        header_length: Bytes of it that are JSON.
        model_name: Of the path.
        model_version: Of the path; "": none was named.
        caller: Who asks.
        find: Tells where in shared memory a tensor lies, of its name and parameters; None: nowhere.

    Raises:
        OipError: It is not what the protocol has.
    """
    fields = read_json(memoryview(body)[:header_length])
    options = dict(parameters(fields))
    binary = take(options, BINARY_OUTPUTS, bool, False)
    options.pop(BINARY_OUTPUTS, None)
    outputs, forms = _outputs(fields, binary, find)
    request = InferRequest(
        model_name=model_name,
        model_version=model_version,
        id=take(fields, "id", str, ""),
        inputs=_inputs(fields, memoryview(body)[header_length:], model_name, find),
        outputs=outputs,
        parameters=options,
        caller=caller,
    )
    return request, forms


def _inputs(fields: Fields, binary: memoryview, model: str, find: FindPlace) -> tuple[Tensor, ...]:
    inputs: list[Tensor] = []
    at = 0
    for entry in objects(fields, "inputs"):
        name, datatype = take(entry, "name", str), take(entry, "datatype", str)
        options = parameters(entry)
        shape = _shape(entry)
        check_datatype(datatype, name, model)
        source, place = _source(entry, options), find(name, options)
        array: npt.NDArray[Any]
        if source == BINARY_SIZE:
            size = whole(options, BINARY_SIZE)
            missing = at + size - len(binary)
            if missing > 0:
                raise OipError(
                    "invalid_argument",
                    f"unexpected size for input '{name}', expecting {missing} additional bytes for model '{model}'",
                )
            array = decode(binary[at : at + size], datatype, shape, name, model)
            if not array.flags.aligned:  # it begins anywhere behind the JSON, and kernels count on their alignment
                array = array.copy()
            at += size
        elif source == REGION:
            assert place is not None
            array = decode(place.memory.toreadonly(), datatype, shape, name, model)
        else:
            num_elements(shape, name, model)
            array = read_values(name, datatype, shape, entry["data"])
        inputs.append(Tensor(name, datatype, array, options))
    if at != len(binary):
        raise OipError("invalid_argument", f"unexpected additional input data for model '{model}'")
    return tuple(inputs)


def _source(entry: Fields, options: Fields) -> str:
    """Where the values of an input are: "data", BINARY_SIZE or REGION."""
    there = [key for key, fields in (("data", entry), (BINARY_SIZE, options), (REGION, options)) if key in fields]
    if len(there) != 1:
        got = f"set {' '.join(map(repr, there))}" if there else "no field is set"
        raise OipError("invalid_argument", f"Input must set only one of the following fields: {_SOURCES}. But {got}")
    return there[0]


def _shape(entry: Fields) -> list[int]:
    shape = take(entry, "shape", list)
    if len(shape) > MAX_DIMENSIONS:
        raise OipError(
            "invalid_argument",
            f"Unable to parse 'shape': expected at most {MAX_DIMENSIONS} dimensions, got {len(shape)}",
        )
    for size in shape:
        if type(size) is not int or not 0 <= size < 2**63:
            raise unparsed("shape", "integers from 0 to 2**63 - 1", size, True)
    return shape


def _outputs(fields: Fields, binary: bool, find: FindPlace) -> tuple[tuple[RequestedOutput, ...], Forms]:
    outputs: list[RequestedOutput] = []
    by_name: dict[str, bool] = {}
    places: dict[str, Place] = {}
    for entry in objects(fields, "outputs", []):
        name = take(entry, "name", str)
        options = parameters(entry)
        classes = whole(options, "classification", 0)
        if "classification" in options and not classes:
            raise unparsed("classification", "an integer above 0", classes, True)
        place = find(name, options)
        by_name[name] = take(options, BINARY, bool, binary and place is None)
        if place is not None:
            for key, both in (("classification", classes > 0), (BINARY, by_name[name])):
                if both:
                    raise OipError("invalid_argument", f"Output can't set both 'shared_memory_region' and '{key}'")
            places[name] = place
        outputs.append(RequestedOutput(name, classes))
    return tuple(outputs), Forms(binary, by_name, places)
