"""One inference of the Open Inference Protocol, as plain values: what gRPC and HTTP both read into and write from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]

# The protocol's names; the types of the arrays that carry them. BF16 is its bits, BYTES are objects of type bytes.
DATATYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),
    "BYTES": np.dtype(np.object_),
}


@dataclass(frozen=True)
class Tensor:
    """An input or an output.

    Args:
        name: As the model calls it.
        datatype: One of DATATYPES.
        array: Its values, row-major; may be a view of memory that others write (a shared region).
        parameters: As they came or go.
    """

    name: str
    datatype: str
    array: npt.NDArray[Any]
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a request asks for.

    Args:
        name: As the model calls it.
        classification: Of how many best classes to tell; 0: the tensor itself.
    """

    name: str
    classification: int = 0


@dataclass(frozen=True)
class InferRequest:
    """One request.

    Args:
        model_name: Of the model.
        model_version: As it came: "" is the newest.
        id: To be echoed.
        inputs: In order.
        outputs: Those asked for; none: all but states.
        parameters: sequence_id, sequence_start, priority, timeout and so on, each with the type that it came with.
        caller: Whose sequences these are: equal ids of different callers are different sequences.
        deadline_s: When the caller's time is up, on time.monotonic; None: it set no deadline.
    """

    model_name: str
    model_version: str
    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    parameters: Parameters = field(default_factory=dict)
    caller: str = ""
    deadline_s: float | None = None


@dataclass(frozen=True)
class InferResponse:
    """One answer; the outputs are in the order asked for, or in the model's."""

    model_name: str
    model_version: str
    id: str
    outputs: tuple[Tensor, ...]
    parameters: Parameters = field(default_factory=dict)
