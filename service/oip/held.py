"""How much memory of the service the inputs of a request take until they have been run."""

import sys
from collections.abc import Sequence

from service.oip.messages import Tensor
from service.oip.shared_memory_tensors import REGION

_OBJECT_BYTES = sys.getsizeof(b"")  # of an element of BYTES, besides its own


def held_bytes(inputs: Sequence[Tensor]) -> int:
    """Count the bytes of inputs.

    Numbers in shared memory are their owner's and count nothing; elements of BYTES are copied from wherever they lie.
    """
    return sum([_num_bytes(tensor) for tensor in inputs])


def _num_bytes(tensor: Tensor) -> int:
    array = tensor.array
    if tensor.datatype == "BYTES":
        return array.nbytes + array.size * _OBJECT_BYTES + sum(map(len, array.flat))
    return 0 if REGION in tensor.parameters else array.nbytes
