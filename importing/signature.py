"""What a model takes and gives, as it declares it."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from export.graph.types import DTYPES, ELEMENT_TYPES
from export.manifest import DType
from importing.errors import ImportRefused

Array = npt.NDArray[Any]
Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class Value:
    """A graph input or output.

    Args:
        name: As in the graph.
        dtype: Of its elements.
        dims: By axis a size, or the name of a size that is free; where the model gives none, `<name>_<axis>`. None
            where not even the number of axes is declared, which outputs may do.
        named: Axes whose free size the model itself names.
    """

    name: str
    dtype: DType
    dims: Dims | None
    named: frozenset[int] = frozenset()

    @property
    def shape(self) -> Dims:
        """`dims`, where they must be known."""
        assert self.dims is not None
        return self.dims


@dataclass(frozen=True)
class Signature:
    """All of it.

    Args:
        inputs: Those that must be given, in the graph's order.
        outputs: In the graph's order.
        defaults: By name, inputs that have a value in the file and so may be left out.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    defaults: Mapping[str, Array]

    def input(self, name: str) -> Value:
        """The input of that name.

        Raises:
            ImportRefused: There is none.
        """
        return _find("input", self.inputs, name)

    def output(self, name: str) -> Value:
        """The output of that name.

        Raises:
            ImportRefused: There is none.
        """
        return _find("output", self.outputs, name)


def read_signature(model: onnx.ModelProto, with_defaults: Collection[str] = ()) -> Signature:
    """Read inputs and outputs.

    Args:
        model: Checked.
        with_defaults: Inputs with a default value to list among the inputs all the same (they are states).

    Raises:
        ImportRefused: One of them is no tensor of a type that can be sent, or an input has no declared rank.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    sparse = {tensor.values.name for tensor in model.graph.sparse_initializer}
    inputs = [
        _read("input", info)
        for info in model.graph.input
        if (info.name not in initializers or info.name in with_defaults) and info.name not in sparse
    ]
    for value in inputs:
        if value.dims is None:
            raise ImportRefused(f"input {value.name}: expected a declared number of axes, got a tensor of any shape")
    outputs = [_read("output", info) for info in model.graph.output]
    if not outputs:
        raise ImportRefused("expected a model with outputs, got none")
    defaults = {
        info.name: numpy_helper.to_array(initializers[info.name])
        for info in model.graph.input
        if info.name in initializers
    }
    return Signature(tuple(inputs), tuple(outputs), defaults)


def _read(kind: str, info: onnx.ValueInfoProto) -> Value:
    form = info.type.WhichOneof("value")
    if form != "tensor_type":
        raise ImportRefused(f"{kind} {info.name}: expected a tensor, got {(form or 'no type').removesuffix('_type')}")
    tensor = info.type.tensor_type
    dtype = DTYPES.get(tensor.elem_type)
    if dtype is None:
        known = (
            TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type in TensorProto.DataType.values() else "?"
        )
        raise ImportRefused(f"{kind} {info.name}: expected a type of {', '.join(ELEMENT_TYPES)}, got {known}")
    if not tensor.HasField("shape"):
        return Value(info.name, dtype, None)
    dims: list[int | str] = []
    named = set()
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            dims.append(dim.dim_value)
            continue
        if dim.dim_param:
            named.add(axis)
        # Some converters write 0 or -1 where any size will do.
        dims.append(dim.dim_param or f"{info.name}_{axis}")
    return Value(info.name, dtype, tuple(dims), frozenset(named))


def _find(kind: str, values: tuple[Value, ...], name: str) -> Value:
    for value in values:
        if value.name == name:
            return value
    raise ImportRefused(f"{kind} {name!r}: expected one of {[value.name for value in values]}")


def same_sizes(first: Dims, second: Dims | None) -> bool:
    """Whether two shapes may be equal: as many axes, and no two sizes that are known and differ."""
    if second is None:
        return True
    if len(first) != len(second):
        return False
    pairs = zip(first, second, strict=True)
    return all(a == b or isinstance(a, str) or isinstance(b, str) for a, b in pairs)


def is_float(dtype: DType) -> bool:
    """Whether values of the type are rounded."""
    return dtype in ("float16", "float32", "float64", "bfloat16")


def has_number(dtype: DType, number: float) -> bool:
    """Whether a type has a finite number, rounded where the type is one of floats."""
    if dtype == "string" or not math.isfinite(number):
        return False
    if dtype == "bool":
        return number in (0, 1)
    if is_float(dtype):
        with np.errstate(over="ignore"):
            return bool(np.isfinite(np.asarray(number, "float32" if dtype == "bfloat16" else dtype)))
    bounds = np.iinfo(dtype)
    return number == int(number) and int(bounds.min) <= number <= int(bounds.max)


def zeros(dtype: DType, shape: tuple[int, ...]) -> Array:
    """An array that carries zeros, or empty texts, of the type."""
    if dtype == "string":
        return np.full(shape, "", dtype=object)
    return np.zeros(shape, dtype="uint16" if dtype == "bfloat16" else dtype)
