"""An imported model: its own inputs and outputs, steps of sequences where it has state, batches where it has none."""

from typing import Any

import numpy as np

from export.manifest import TensorSpec
from service.engine.interface import (
    AnyRequest,
    Priority,
    RequestId,
    RunTensors,
    SessionId,
    SessionState,
    StateTensors,
    StepTensors,
    TensorOutputs,
    Tensors,
)
from service.likely import own_inputs
from service.models import LiveModel
from service.oip.classification import classify
from service.oip.datatypes import DATATYPE
from service.oip.errors import OipError
from service.oip.face import Port
from service.oip.layout import Layout, Rules, is_finite, lay_out
from service.oip.messages import DATATYPES, InferRequest, RequestedOutput, Tensor
from service.oip.wanted import Selection, select

_MOST_KNOWN = 256  # layouts, and selections, that are remembered


class TensorFace:
    """See the module docstring; implements `Face`.

    Args:
        model: Of the task `tensors`.
    """

    def __init__(self, model: LiveModel) -> None:
        self.model = model
        manifest = model.manifest
        assert manifest.imported is not None
        self.is_stateful = "step" in manifest.graphs
        graph = manifest.graphs["step" if self.is_stateful else "run"]
        pools = {state.pool_output for state in manifest.states}
        rows, shared = own_inputs(graph, manifest)
        own = [tensor for tensor in graph.inputs if tensor.name in rows or tensor.name in shared]
        self.inputs = {tensor.name: _port(tensor, tensor.name in rows) for tensor in own}
        self.outputs = {tensor.name: _port(tensor, True) for tensor in graph.outputs if tensor.name not in pools}
        self.states: dict[str, Port] = {}
        self.state_outputs: dict[str, Port] = {}
        self._state_of: dict[str, str] = {}  # by name of input and of output
        for state in manifest.states:
            for name, ports in ((state.sequence_input, self.states), (state.sequence_output, self.state_outputs)):
                if name is not None:
                    ports[name] = Port(name, DATATYPE[state.dtype], state.shape)
                    self._state_of[name] = state.name
        self.max_batch_size = manifest.imported.max_rows or model.max_batch_rows or 1
        most = model.limits.max_input_tokens if self.is_stateful else self.max_batch_size
        self._lengths = manifest.imported.lengths_input
        self._rules = Rules(manifest.name, self.inputs, self.states, self.is_stateful, most, self._lengths)
        self._layouts: dict[Any, Layout] = {}
        self._selections: dict[tuple[RequestedOutput, ...], Selection] = {}

    def prepare(self, request: InferRequest, start: bool) -> "PreparedTensors":
        """Check a request; see `Face`."""
        tensors = request.inputs
        key = tuple([(tensor.name, tensor.datatype, tensor.array.shape) for tensor in tensors])
        layout = self._layouts.get(key)
        if layout is None:
            layout = lay_out(self._rules, key)
            _remember(self._layouts, key, layout)
        inputs, shared, given = layout.split(tensors)
        if self._lengths is not None:
            inputs = self._with_lengths(self._lengths, inputs, layout)
        initial = None if given is None else self._initial(given, start)
        selection = self._selections.get(request.outputs)
        if selection is None:
            selection = select(self._rules.model, request.outputs, self.outputs, self.state_outputs, self._state_of)
            _remember(self._selections, request.outputs, selection)
        return PreparedTensors(inputs, shared, layout, selection, initial)

    def _with_lengths(self, name: str, inputs: Tensors, layout: Layout) -> Tensors:
        """Make sure of the lengths of the rows: a wrong one could break the run of everybody in the batch."""
        lengths = inputs.get(name)
        if lengths is None:
            dtype = DATATYPES[self.inputs[name].datatype]
            return {**inputs, name: np.full(layout.num_rows, layout.longest, dtype)}
        if lengths.min() < 0 or lengths.max() > layout.longest:
            raise OipError(
                "invalid_argument",
                f"input '{name}' for model '{self._rules.model}' must have lengths of 0 to {layout.longest}",
            )
        return inputs

    def _initial(self, given: StateTensors, start: bool) -> StateTensors:
        for name, array in given.items():
            if not start:
                raise OipError(
                    "invalid_argument",
                    f"unexpected inference input '{name}' for model '{self._rules.model}': a state is given on the "
                    "START of a sequence alone",
                )
            if not is_finite(array):
                raise OipError("invalid_argument", f"input '{name}' must have finite values: it is a state")
        return {self._state_of[name]: array for name, array in given.items()}


class PreparedTensors:
    """See `Prepared`."""

    __slots__ = ("_inputs", "_layout", "_selection", "_shared", "initial")

    def __init__(
        self, inputs: Tensors, shared: Tensors, layout: Layout, selection: Selection, initial: StateTensors | None
    ) -> None:
        self._inputs = inputs
        self._shared = shared
        self._layout = layout
        self._selection = selection
        self.initial = initial

    @property
    def needs_state(self) -> bool:
        """Whether states are among the outputs that it wants."""
        return self._selection.needs_state

    @property
    def num_rows(self) -> int:
        """Steps of a sequence, or rows of a batch."""
        return self._layout.num_rows

    def step(self, work: RequestId, session: SessionId, deadline_s: float | None) -> AnyRequest:
        """Make the engine's request, of a model with state."""
        return StepTensors(
            work, session, self._inputs, self._shared, self._layout.num_rows, self._selection.graph_outputs, deadline_s
        )

    def run(self, work: RequestId, priority: Priority, deadline_s: float | None) -> AnyRequest:
        """Make the engine's request, of a model without."""
        return RunTensors(
            work,
            self._inputs,
            self._shared,
            self._layout.num_rows,
            self._selection.graph_outputs,
            deadline_s=deadline_s,
            priority=priority,
        )

    def outputs(self, value: object, state: SessionState | None) -> tuple[Tensor, ...]:
        """Make the answer."""
        assert type(value) is TensorOutputs
        tensors, is_timed = value.tensors, self._layout.is_timed
        answer = []
        for port, state_name, classes in self._selection.wanted:
            if state_name is None:
                array = tensors[port.name]
                if is_timed:
                    array = array[None]  # (1, T, ...)
            else:
                assert state is not None
                array = state.tensors[state_name][None]
            if classes:
                num_outer = 2 if is_timed and state_name is None else 1
                answer.append(Tensor(port.name, "BYTES", classify(array, classes, num_outer)))
            else:
                answer.append(Tensor(port.name, port.datatype, array))
        return tuple(answer)


def _port(tensor: TensorSpec, has_rows: bool) -> Port:
    return Port(tensor.name, DATATYPE[tensor.dtype], tensor.shape[1:] if has_rows else tensor.shape, has_rows)


def _remember(known: dict[Any, Any], key: object, value: object) -> None:
    if len(known) >= _MOST_KNOWN:
        known.clear()
    known[key] = value
