"""Writes the answer of an inference: a JSON object, and behind it the bytes of the outputs that are asked for so."""

import gzip
import json
import zlib

from starlette.datastructures import Headers
from starlette.responses import Response

from service.http.fields import Fields
from service.http.inference.request import BINARY_SIZE, Forms
from service.http.inference.values import write_values
from service.http.status import JSON
from service.oip.codec import encode
from service.oip.messages import InferResponse

HEADER_LENGTH = "inference-header-content-length"
OCTETS = "application/octet-stream"
LEAST_COMPRESSED_BYTES = 1024  # of answers that are compressed: it does nothing for smaller ones
COMPRESSION_LEVEL = 1


def write_inference(response: InferResponse, forms: Forms, encoding: str) -> Response:
    """Write an answer.

    Args:
        response: The answer.
        forms: How its outputs are to be written.
        encoding: "gzip", "deflate" or "".

    Raises:
        OipError: An output has no JSON form.
    """
    fields: Fields = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        fields["id"] = response.id
    if response.parameters:
        fields["parameters"] = dict(response.parameters)
    outputs, binary = [], list[bytes]()
    for tensor in response.outputs:
        place = forms.places.get(tensor.name)
        if place is not None:
            tensor = place.write(tensor)
        output: Fields = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.array.shape)}
        options = dict(tensor.parameters)
        if place is not None:
            pass
        elif forms.is_binary(tensor.name):
            binary.append(encode(tensor))
            options[BINARY_SIZE] = len(binary[-1])
        else:
            output["data"] = write_values(tensor.name, tensor.datatype, tensor.array)
        if options:
            output["parameters"] = options
        outputs.append(output)
    fields["outputs"] = outputs
    header = json.dumps(fields, separators=(",", ":")).encode()
    headers = {}
    if binary:
        headers[HEADER_LENGTH] = str(len(header))
    body = b"".join((header, *binary))
    if encoding and len(body) >= LEAST_COMPRESSED_BYTES:
        headers["content-encoding"] = encoding
        compress = gzip.compress if encoding == "gzip" else zlib.compress
        body = compress(body, COMPRESSION_LEVEL)
    return Response(body, headers=headers, media_type=OCTETS if binary else JSON)


def choose_encoding(headers: Headers) -> str:
    """Which compression the caller takes: "gzip", "deflate" or ""; the first of those that it likes best."""
    best, best_weight = "", 0.0
    for part in headers.get("accept-encoding", "").split(","):
        name, _, weight_text = part.strip().lower().partition(";")
        try:
            weight = float(weight_text.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        if name.strip() in ("gzip", "deflate") and weight > best_weight:
            best, best_weight = name.strip(), weight
    return best
