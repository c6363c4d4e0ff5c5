"""Parameters of requests and answers, between their messages and plain values."""

from collections.abc import Mapping

from protos.inference import grpc_service_pb2 as pb
from service.oip.errors import OipError
from service.oip.inference.options import EMPTY_FINAL
from service.oip.messages import Parameter, Parameters

_NONE: Parameters = {}
MAX_INT64 = 2**63 - 1
PRIORITY = "priority"  # the one parameter that the usual client sends as a uint64
# What else a uint64 or nothing at all is refused as; without it these would pass for int64 once they are Python's.
_EXPECTED: Mapping[str, str] = {
    "sequence_id": "int64_param or string_param",
    "sequence_start": "bool_param",
    "sequence_end": "bool_param",
    "timeout": "int64_param",
    PRIORITY: "int64_param or uint64_param",
    EMPTY_FINAL: "bool_param",
}


def read_parameters(fields: Mapping[str, pb.InferParameter]) -> Parameters:
    """Give the values of parameters.

    Raises:
        OipError: One has no value, or one of a type that nothing takes.
    """
    if not fields:
        return _NONE
    values: dict[str, Parameter] = {}
    for key in fields:  # the items of such a map cost twice as much
        field = fields[key]
        choice = field.WhichOneof("parameter_choice")
        unsigned = choice == "uint64_param" and key != PRIORITY
        if choice is None or unsigned or (key == EMPTY_FINAL and choice != "bool_param"):
            expected = _EXPECTED.get(key, "int64_param, bool_param, or string_param")
            raise OipError("invalid_argument", f"invalid value type for '{key}' parameter, expected {expected}.")
        values[key] = getattr(field, choice)
    return values


def write_parameters(fields: Mapping[str, pb.InferParameter], values: Parameters) -> None:
    """Set parameters in the map of a message, which makes what it is asked for."""
    for key, value in values.items():
        field = fields[key]
        if isinstance(value, bool):  # which is an int too
            field.bool_param = value
        elif isinstance(value, int):
            if value > MAX_INT64:
                field.uint64_param = value
            else:
                field.int64_param = value
        elif isinstance(value, float):
            field.double_param = value
        else:
            field.string_param = value
