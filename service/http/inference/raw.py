"""Inference without JSON: the whole body is the one input of a model, for callers that have but bytes.

Source: "Raw Binary Request" of the protocol's binary tensor data extension.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from service.http.inference.request import Forms
from service.oip.codec import decode, element_bytes
from service.oip.errors import OipError
from service.oip.messages import InferRequest, Tensor


def read_raw(
    body: bytes, inputs: Sequence[Mapping[str, Any]], model_name: str, model_version: str, caller: str
) -> tuple[InferRequest, Forms]:
    """Read a body as one row of a model's only input.

    Args:
        body: All of it, decompressed.
        inputs: Of the model, as its metadata has them.
        model_name: Of the path.
        model_version: Of the path; "": none was named.
        caller: Who asks.

    Raises:
        OipError: The model has several inputs, or the shape does not follow from the number of bytes.
    """
    if len(inputs) != 1:
        expected = f"Raw request must only have 1 input (found {len(inputs)}) to be deduced"
        raise OipError("invalid_argument", f"{expected} for model '{model_name}'")
    name, datatype, dims = inputs[0]["name"], inputs[0]["datatype"], list(inputs[0]["shape"])
    dims[0] = 1
    free = [axis for axis, size in enumerate(dims) if size < 0]
    if datatype == "BYTES":
        if free or prod(dims) != 1:
            raise OipError(
                "invalid_argument",
                f"For BYTE datatype raw input '{name}', the model '{model_name}' must have input shape [1]",
            )
        array = np.empty(dims, np.object_)
        array.reshape(-1)[0] = body
    else:
        if len(free) > 1:
            raise OipError(
                "invalid_argument",
                f"The shape of the raw input '{name}' can not be deduced because there are more than one variable-"
                f"sized dimension for model '{model_name}'",
            )
        known = element_bytes(datatype) * prod(size for size in dims if size >= 0)
        if free and known:
            dims[free[0]] = len(body) // known
        array = decode(body, datatype, [max(size, 0) for size in dims], name, model_name)
    request = InferRequest(model_name, model_version, "", (Tensor(name, datatype, array),), caller=caller)
    return request, Forms(binary=True)
