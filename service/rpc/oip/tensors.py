"""Requests and answers of the protocol, between protobuf and what the core takes and gives."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from protos.inference import grpc_service_pb2 as pb
from service.oip.codec import decode, encode
from service.oip.errors import OipError
from service.oip.messages import InferRequest, InferResponse, Parameters, RequestedOutput, Tensor
from service.oip.shared_memory_tensors import KEYS, Place, place_of
from service.rpc.oip.caller import InferenceCaller
from service.rpc.oip.contents import read_contents
from service.rpc.oip.parameters import read_parameters, write_parameters

Places = Mapping[str, Place]  # of outputs that go to shared memory, by name
_NOWHERE: Places = {}
_CLASSIFICATION = "classification"


def read_request(message: pb.ModelInferRequest, caller: InferenceCaller) -> tuple[InferRequest, Places]:
    """Read a request; numbers that came raw, or lie in shared memory, are not copied again.

    Raises:
        OipError: It is malformed.
    """
    model, raws = message.model_name, message.raw_input_contents
    inputs: list[Tensor] = []
    num_raw = 0
    for field in message.inputs:
        name, datatype, shape = field.name, field.datatype, field.shape[:]
        parameters = read_parameters(field.parameters)
        place = _place(caller, name, parameters)
        array: npt.NDArray[Any]
        if place is not None:
            if field.HasField("contents"):
                where = f"for input tensor '{name}' for model '{model}'"
                raise _wrong(f"unexpected 'content' provided when using shared memory {where}")
            array = decode(place.memory.toreadonly(), datatype, shape, name, model)
        elif field.HasField("contents"):
            if raws:
                where = f"for '{name}' for model '{model}'"
                raise _wrong(f"contents field must not be specified when using raw_input_contents {where}")
            array = read_contents(field.contents, datatype, shape, name, model)
        elif num_raw < len(raws):
            array = decode(raws[num_raw], datatype, shape, name, model)
            num_raw += 1
        else:
            raise _wrong(f"unable to find data for input tensor '{name}' for model '{model}' in request.")
        inputs.append(Tensor(name, datatype, array, parameters))
    if num_raw < len(raws):
        raise _wrong(f"expected {num_raw} raw_input_contents for model '{model}', got {len(raws)}")
    outputs, places = _outputs(message, caller) if message.outputs else ((), _NOWHERE)
    request = InferRequest(
        model,
        message.model_version,
        message.id,
        tuple(inputs),
        outputs,
        read_parameters(message.parameters),
        caller.name,
        caller.deadline_s,
    )
    return request, places


def fill_response(message: pb.ModelInferResponse, response: InferResponse, places: Places) -> None:
    """Write an answer; outputs are raw, or go to their places.

    Raises:
        OipError: An output does not fit its place.
    """
    message.model_name, message.model_version, message.id = response.model_name, response.model_version, response.id
    if response.parameters:
        write_parameters(message.parameters, response.parameters)
    raw = message.raw_output_contents
    for tensor in response.outputs:
        place = places.get(tensor.name)
        if place is None:
            raw.append(encode(tensor))
        else:
            tensor = place.write(tensor)
            raw.append(b"")  # clients count on one for each output
        field = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        if tensor.parameters:
            write_parameters(field.parameters, tensor.parameters)


def _place(caller: InferenceCaller, name: str, parameters: Parameters) -> Place | None:
    if not parameters or KEYS.isdisjoint(parameters):
        return None
    return place_of(caller.regions, name, parameters)


def _outputs(message: pb.ModelInferRequest, caller: InferenceCaller) -> tuple[tuple[RequestedOutput, ...], Places]:
    """The outputs that are asked for, and where they are to go."""
    outputs: list[RequestedOutput] = []
    places: dict[str, Place] = {}
    for field in message.outputs:
        parameters = read_parameters(field.parameters)
        place = _place(caller, field.name, parameters)
        classification = 0
        if _CLASSIFICATION in parameters:
            value = parameters[_CLASSIFICATION]
            if type(value) is not int:
                raise _wrong(f"invalid value type for '{_CLASSIFICATION}' parameter, expected int64_param")
            if value <= 0:
                raise _wrong(f"invalid value for '{_CLASSIFICATION}' parameter, expected > 0, got {value}")
            if place is not None:
                raise _wrong(f"output can't set both 'shared_memory_region' and '{_CLASSIFICATION}'")
            classification = value
        if place is not None:
            places[field.name] = place
        outputs.append(RequestedOutput(field.name, classification))
    return tuple(outputs), places


def _wrong(message: str) -> OipError:
    return OipError("invalid_argument", message)
