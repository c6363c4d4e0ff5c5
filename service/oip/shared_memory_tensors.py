"""Tensors that lie in registered regions: the parameters that say so, and how outputs get there."""

from dataclasses import dataclass

from service.oip.codec import encode_into, encoded_bytes
from service.oip.errors import OipError
from service.oip.messages import Parameters, Tensor
from service.oip.shared_memory import Region, Regions

REGION, OFFSET, BYTE_SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"
KEYS = frozenset((REGION, OFFSET, BYTE_SIZE))


@dataclass(frozen=True)
class Place:
    """A part of a region.

    Args:
        region: Which.
        offset: Where in the region it begins, in bytes.
        byte_size: Its size in bytes.
        memory: The part itself.
    """

    region: Region
    offset: int
    byte_size: int
    memory: memoryview

    def write(self, tensor: Tensor) -> Tensor:
        """Put an output there.

        Returns:
            What is answered instead of its values.

        Raises:
            OipError: There is not enough room.
        """
        num_bytes = encoded_bytes(tensor)
        if num_bytes > self.byte_size:
            raise OipError(
                "internal",  # as the reference server has it
                f"shared memory size specified with the request for output '{tensor.name}' ({self.byte_size} bytes) "
                f"should be at least {num_bytes} bytes to hold the results",
            )
        self.region.check_size()
        encode_into(self.memory, tensor)
        where: Parameters = {REGION: self.region.name, OFFSET: self.offset, BYTE_SIZE: num_bytes}
        return Tensor(tensor.name, tensor.datatype, tensor.array, {**tensor.parameters, **where})


def place_of(regions: Regions, name: str, parameters: Parameters) -> Place | None:
    """Find where a tensor lies; None where it comes or goes with the message.

    Args:
        regions: Those that are registered.
        name: Of the tensor.
        parameters: Of the tensor.

    Raises:
        OipError: The parameters are of the wrong types or incomplete, or there is no such region or part of it.
    """
    region = parameters.get(REGION)
    offset, byte_size = parameters.get(OFFSET, 0), parameters.get(BYTE_SIZE)
    if region is None:
        for key in (OFFSET, BYTE_SIZE):
            if key in parameters:
                expected = f"'{REGION}' parameter for tensor '{name}'"
                raise _wrong(f"'{key}' can not be specified without {expected}")
        return None
    if type(region) is not str:
        raise _wrong(f"invalid value type for '{REGION}' parameter for tensor '{name}', expected string_param.")
    if type(offset) is not int:
        raise _wrong(f"invalid value type for '{OFFSET}' parameter for tensor '{name}', expected int64_param.")
    if byte_size is None:
        raise _wrong(f"'{BYTE_SIZE}' must be specified along with '{REGION}' parameter for tensor '{name}'")
    if type(byte_size) is not int:
        raise _wrong(f"invalid value type for '{BYTE_SIZE}' parameter for tensor '{name}', expected int64_param.")
    found = regions.find(region)
    return Place(found, offset, byte_size, found.part(offset, byte_size))


def _wrong(message: str) -> OipError:
    return OipError("invalid_argument", message)
