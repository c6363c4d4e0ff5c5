"""The ONNX standard's own test cases of recurrent operators, and models that take the same steps one at a time."""

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

Array = npt.NDArray[Any]
OPERATORS = ("LSTM", "GRU", "RNN")
_STATES = {"LSTM": ("initial_h", "initial_c"), "GRU": ("initial_h",), "RNN": ("initial_h",)}
_CONSTANTS = ("W", "R", "B", "P")
_SLOTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")  # inputs of the operators, in order


@dataclass(frozen=True)
class NodeCase:
    """One case: a model of one node, what goes in and what has to come out.

    Args:
        name: Without `test_`.
        model: As the standard has it: weights are inputs, sizes are fixed.
        inputs: By name.
        outputs: By name.
    """

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Array]
    outputs: dict[str, Array]

    @property
    def node(self) -> onnx.NodeProto:
        """The node."""
        return self.model.graph.node[0]

    @property
    def is_forward(self) -> bool:
        """Whether its states run forward in time, with time first."""
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in self.node.attribute}
        return attributes.get("direction", b"forward") == b"forward" and not attributes.get("layout")

    def stepwise(self) -> onnx.ModelProto:
        """The same operator with its weights inside, for one step of any number of rows: x (B, I) -> Y_h (1, B, H)."""
        graph = self.model.graph
        node = onnx.NodeProto()
        node.CopyFrom(self.node)
        states = _STATES[node.op_type]
        places = {place: name for place, name in zip(_SLOTS, node.input, strict=False) if name}
        constants = {place: name for place, name in places.items() if place in _CONSTANTS}
        wired = {"X": "step", **constants, **{state: state for state in states}}
        last = max(_SLOTS.index(place) for place in wired)
        node.input[:] = [wired.get(place, "") for place in _SLOTS[: last + 1]]
        finals = ["Y_h", "Y_c"][: len(states)]
        node.output[:] = ["", *finals]
        hidden = next(attribute.i for attribute in node.attribute if attribute.name == "hidden_size")
        width = self.inputs["X"].shape[2]
        return helper.make_model(
            helper.make_graph(
                [helper.make_node("Unsqueeze", ["x", "time_axis"], ["step"]), node],
                graph.name,
                [_value("x", "B", width), *(_value(state, 1, "B", hidden) for state in states)],
                [_value(final, 1, "B", hidden) for final in finals],
                [
                    *(numpy_helper.from_array(self.inputs[name], name) for name in constants.values()),
                    numpy_helper.from_array(np.zeros(1, np.int64), "time_axis"),
                ],
            ),
            opset_imports=self.model.opset_import,
            ir_version=self.model.ir_version,
        )


def _value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


@functools.cache
def node_cases() -> dict[str, NodeCase]:
    """All of them, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cases of other operators overflow on purpose
        found = load_model_tests(kind="node")
    cases = {}
    for case in found:
        if case.model is None or len(case.model.graph.node) != 1 or case.model.graph.node[0].op_type not in OPERATORS:
            continue
        assert case.data_sets is not None
        ((inputs, outputs),) = case.data_sets
        graph = case.model.graph
        name = case.name.removeprefix("test_")
        cases[name] = NodeCase(
            name,
            case.model,
            dict(zip((value.name for value in graph.input), inputs, strict=True)),
            dict(zip((value.name for value in graph.output), outputs, strict=True)),
        )
    return cases
