"""An imported model: its own inputs and outputs, steps of sequences where it has state, batches where it has none."""

from collections.abc import Sequence

import numpy as np

from export.manifest import TensorSpec, own_tensors
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
from service.models import LiveModel
from service.oip.datatypes import DATATYPE
from service.oip.errors import OipError
from service.oip.faces.face import Port
from service.oip.faces.intake import Intake
from service.oip.faces.layout import Layout, Rules
from service.oip.faces.outputs import make_tensors
from service.oip.faces.state_ports import StatePorts
from service.oip.faces.wanted import Selection
from service.oip.messages import DATATYPES, InferRequest, Tensor


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
        (graph,) = manifest.graphs.values()
        own = own_tensors(manifest)
        given = [tensor for tensor in graph.inputs if tensor.name in own.inputs or tensor.name in own.shared]
        self.inputs = {tensor.name: _port(tensor, tensor.name in own.inputs) for tensor in given}
        self.outputs = {name: _port(tensor, True) for name, tensor in own.outputs.items()}
        self._unsized = own.unsized  # several steps of them are no tensor
        self._state_ports = StatePorts(manifest.name, manifest.states)
        self.states, self.state_outputs = self._state_ports.given, self._state_ports.told
        self.max_batch_size = manifest.imported.max_rows or model.max_batch_rows or 1
        most = model.limits.max_input_tokens if self.is_stateful else self.max_batch_size
        self._lengths = manifest.imported.lengths_input
        rules = Rules(manifest.name, self.inputs, self.states, self.is_stateful, most, self._lengths)
        self._intake = Intake(rules, self.outputs, self._state_ports)

    def prepare(self, request: InferRequest, start: bool) -> "PreparedTensors":
        """Check a request; see `Face`."""
        layout, selection = self._intake.check(request)
        if self.is_stateful and layout.num_rows > 1:
            self._check_sizes(layout.num_rows, selection.graph_outputs)
        inputs, shared, given = layout.split(request.inputs)
        if self._lengths is not None:
            inputs = self._with_lengths(self._lengths, inputs, layout)
        return PreparedTensors(inputs, shared, layout, selection, self._state_ports.initial(given, start))

    def _check_sizes(self, num_steps: int, outputs: Sequence[str]) -> None:
        """Refuse several steps here where the engine would, so that none of the same sequence is taken behind them."""
        if unsized := [name for name in outputs if name in self._unsized]:
            raise OipError(
                "invalid_argument",
                f"inference request must have 1 step along time for '{self.model.manifest.name}', as only a run tells "
                f"the sizes of its output '{unsized[0]}', got {num_steps}",
            )

    def _with_lengths(self, name: str, inputs: Tensors, layout: Layout) -> Tensors:
        """Make sure of the lengths of the rows: a wrong one could break the run of everybody in the batch."""
        lengths = inputs.get(name)
        if lengths is None:
            dtype = DATATYPES[self.inputs[name].datatype]
            return {**inputs, name: np.full(layout.num_rows, layout.longest, dtype)}
        lengths = np.array(lengths)  # what is looked at must be what runs: others may write where these came from
        if lengths.min() < 0 or lengths.max() > layout.longest:
            raise OipError(
                "invalid_argument",
                f"input '{name}' for model '{self.model.manifest.name}' must have lengths of 0 to {layout.longest}",
            )
        return {**inputs, name: lengths}


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
        tensors, num_outer = value.tensors, 1
        if self._layout.is_timed:
            tensors, num_outer = {name: array[None] for name, array in tensors.items()}, 2  # (1, T, ...)
        return make_tensors(self._selection, tensors, state, num_outer)


def _port(tensor: TensorSpec, has_rows: bool) -> Port:
    return Port(tensor.name, DATATYPE[tensor.dtype], tensor.shape[1:] if has_rows else tensor.shape, has_rows)
