"""A small builder, so that emitters read like the computation that they emit."""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graph.walk import all_nodes, bodies, reads
from export.manifest import DType, GraphSpec, Precision, TensorSpec, Variant

# Opset 22 registers the recurrent operators anew, which CUDA kernels do not follow everywhere.
OPSET: Final = 20
IR_VERSION: Final = 10
# Of ONNX Runtime's own operators; only int8 needs them.
RUNTIME_DOMAIN: Final = "com.microsoft"

_LARGEST_HALF: Final = float(np.finfo(np.float16).max)

Array = npt.NDArray[Any]
# What a layer is in the graph: a recurrent node of ONNX, or what the variants of a step are made of.
Cells = Literal["node"] | Variant
Shape = tuple[int | str, ...]
_TENSOR_TYPES: Final[dict[DType, int]] = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
}


class EmitError(Exception):
    """A model cannot be written in the precision that was asked for; says expected and got."""


class _Value(NamedTuple):
    """An input or output of the graph."""

    name: str
    dtype: DType
    shape: Shape


class GraphBuilder:
    """Collects the nodes of one ONNX graph in the order in which they run.

    Values are named by strings. Nothing is checked here beyond names; `build` runs the ONNX checker over the whole.

    Args:
        name: Of the graph; also the name of its file, `<name>.onnx`.
        precision: Of the affine maps and recurrences that emitters put here.
        prefix: Of the names that are made up here; the body of a control-flow node needs one of its own.
        cells: What recurrent layers are made of where they take single steps; int8 has primitive operators always.
    """

    def __init__(self, name: str, precision: Precision = "fp32", prefix: str = "", cells: Cells = "node") -> None:
        self.name = name
        self.precision = precision
        self.cells = cells
        self._prefix = prefix
        self._inputs: list[_Value] = []
        self._outputs: list[_Value] = []
        self._output_names: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], str] = {}
        self._num_values = 0

    def input(self, name: str, dtype: DType, shape: Shape) -> str:
        """Declare a graph input and return its name."""
        self._inputs.append(_Value(name, dtype, shape))
        return name

    def output(self, value: str, name: str, dtype: DType, shape: Shape) -> None:
        """Make a value, computed by a node, a graph output of that name."""
        if value in self._output_names or all(value not in node.output for node in self._nodes):
            raise ValueError(f"output {name}: expected a node's value that is no output yet, got {value!r}")
        self._output_names[value] = name
        self._outputs.append(_Value(name, dtype, shape))

    def weight(self, array: Array, name: str) -> str:
        """Add a trained tensor under its own name, so that a report can name it; float64 becomes float32."""
        if name in self._initializers:
            raise ValueError(f"weight {name}: expected a new name, got one that is taken")
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self._initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    @property
    def arithmetic(self) -> DType:
        """The type of what affine maps and recurrences compute with, but for products in int8."""
        return "float16" if self.precision == "fp16" else "float32"

    def parameter(self, array: Array, name: str) -> str:
        """Add a trained tensor of an affine map or a recurrence: as `weight`, in the type of the arithmetic.

        Raises:
            EmitError: A number is too large for float16.
        """
        if self.precision != "fp16":
            return self.weight(array, name)
        largest = float(np.abs(array).max(initial=0))
        if largest > _LARGEST_HALF:
            raise EmitError(f"weight {name}: expected numbers up to {_LARGEST_HALF:g}, got {largest:g}")
        return self.weight(array.astype(np.float16), name)

    def narrow(self, value: str) -> str:
        """A float32 value in the type of the arithmetic."""
        return self.op("Cast", value, to=TensorProto.FLOAT16) if self.precision == "fp16" else value

    def widen(self, value: str) -> str:
        """A value of the arithmetic in float32."""
        return self.op("Cast", value, to=TensorProto.FLOAT) if self.precision == "fp16" else value

    def constant(self, array: Array) -> str:
        """Add a constant of the computation; equal ones are shared."""
        key = (array.tobytes(), str(array.dtype), array.shape)
        if key not in self._constants:
            name = f"{self._prefix}constant_{len(self._constants)}"
            self._constants[key] = self.weight(array, name)
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """A constant int64 vector: axes, shapes and the like."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A constant float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return that."""
        return self.ops(op_type, inputs, 1, **attributes)[0]

    def ops(self, op_type: str, inputs: Sequence[str], num_outputs: int, **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs; an empty string among the inputs leaves an optional one out."""
        outputs = self._new_names(op_type, num_outputs)
        self._nodes.append(helper.make_node(op_type, list(inputs), list(outputs), name=outputs[0], **attributes))
        return outputs

    def split(self, value: str, count: int, axis: int) -> tuple[str, ...]:
        """Cut a value into `count` equal parts along an axis; one part is the value itself."""
        if count == 1:
            return (value,)
        outputs = self._new_names("Split", count)
        self._nodes.append(
            helper.make_node("Split", [value], list(outputs), name=outputs[0], axis=axis, num_outputs=count)
        )
        return outputs

    def spec(self) -> GraphSpec:
        """What the graph takes and gives, for the manifest."""
        inputs, outputs = (
            tuple(TensorSpec.model_validate(value._asdict()) for value in values)
            for values in (self._inputs, self._outputs)
        )
        return GraphSpec(file=f"{self.name}.onnx", inputs=inputs, outputs=outputs)

    def build(self) -> onnx.ModelProto:
        """Finish the graph.

        Raises:
            onnx.checker.ValidationError: The graph is not valid ONNX: a bug in an emitter.
        """
        opsets = [helper.make_opsetid("", OPSET)]
        if self.precision == "int8":
            opsets.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
        model = helper.make_model(
            self.body(),
            opset_imports=opsets,
            ir_version=IR_VERSION,
            producer_name="carryover",
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def body(self) -> onnx.GraphProto:
        """Finish the graph as the body of a control-flow node of another; its names must not be the other's."""
        for node in self._nodes:
            # In place of Identity nodes, which would stand between ScatterND and the pool that it updates in place.
            node.output[:] = [self._output_names.get(value, value) for value in node.output]
            for reader in (node, *(inner for body in bodies(node) for inner in all_nodes(body))):
                reader.input[:] = [self._output_names.get(value, value) for value in reader.input]
        self._drop_unread()
        return helper.make_graph(
            self._nodes,
            self.name,
            [_value_info(value) for value in self._inputs],
            [_value_info(value) for value in self._outputs],
            list(self._initializers.values()),
        )

    def _drop_unread(self) -> None:
        """Leave out nodes and weights whose values nobody reads: what was folded into another weight is one."""
        read, kept = {value.name for value in self._outputs}, []
        for node in reversed(self._nodes):
            if read.intersection(node.output):
                kept.append(node)
                read |= reads(node)
        self._nodes = kept[::-1]
        self._initializers = {name: tensor for name, tensor in self._initializers.items() if name in read}

    def _new_names(self, op_type: str, count: int) -> tuple[str, ...]:
        first = self._num_values
        self._num_values += count
        return tuple(f"{self._prefix}{op_type}_{number}" for number in range(first, first + count))


def _value_info(value: _Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, _TENSOR_TYPES[value.dtype], list(value.shape))
