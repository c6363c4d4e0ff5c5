"""What one model can be asked: requests are checked and become tasks.

The front end has checked what callers send. What is checked here is what would otherwise break a whole batch, and with
it other people's requests.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

import numpy.typing as npt

from export.manifest import GraphKind, Manifest
from service.engine.batch import row_inputs
from service.engine.interface import (
    AnyRequest,
    Decode,
    Generate,
    OpenSession,
    Request,
    RunSequence,
    RunTensors,
    StepSession,
    StepTensors,
)
from service.engine.pages import PAGE_ROWS, MemoryPages
from service.engine.tasks.decode import DecodeTask
from service.engine.tasks.generate import GenerateTask
from service.engine.tasks.sequence import SequenceTask
from service.engine.tasks.task import Task
from service.engine.tensor_admission import TensorAdmission
from service.errors import InvalidInput, WrongTask

_WANTED: Final[Mapping[type[AnyRequest], str]] = {
    RunSequence: "that reads whole sequences, as taggers and language models do",
    Decode: "that transduces, an encoder_decoder",
    Generate: "that generates, a language_model",
    OpenSession: "that keeps sessions, one that can be stepped from left to right",
    StepSession: "that keeps sessions, one that can be stepped from left to right",
    StepTensors: "that was imported and has state",
    RunTensors: "that was imported and has no state",
}


class Admission:
    """Makes tasks for one model.

    Args:
        manifest: Which graphs there are, what they take and give.
        num_slots: State rows that a single task may hold.
        num_rows: Memory rows that a single task may hold.
    """

    def __init__(self, manifest: Manifest, num_slots: int, num_rows: int) -> None:
        self._name, self._task, self._graphs = manifest.name, manifest.task, manifest.graphs
        self._attends = bool(manifest.memories)
        self._num_slots, self._num_rows = num_slots, num_rows
        self._step_inputs: Set[str] = frozenset()
        self._sequence_inputs: Set[str] = frozenset()
        self._top_k = 0
        self.tensors = None if manifest.imported is None else TensorAdmission(manifest)
        if self.tensors is not None:
            return
        if step := manifest.graphs.get("step"):
            self._step_inputs = row_inputs(step).keys()
            self._top_k = next((int(t.shape[1]) for t in step.outputs if t.name == "top_tokens"), 0)
        if sequence := manifest.graphs.get("sequence"):
            self._sequence_inputs = {t.name for t in sequence.inputs if t.dtype == "int64"} - {"lengths"}
            self._sequence_outputs = {tensor.name: tensor for tensor in sequence.outputs}

    def task(self, request: Request) -> Task:
        """Make the task of a request that is not about a session.

        Raises:
            WrongTask: The model has no graph for it.
            InvalidInput: It can never be run.
        """
        match request:
            case RunSequence():
                return self._sequence(request)
            case Decode():
                self._require("encode", request)
                return self._that_fits(DecodeTask(request))
            case Generate():
                self.require_steps(request)
                return self._that_fits(GenerateTask(request, self._top_k))
            case RunTensors() if self.tensors is not None:
                self._require("run", request)
                return self.tensors.task(request)
            case RunTensors():
                raise self._wrong_task(request)
        raise InvalidInput("request", "a kind that the engine knows", type(request).__name__)

    def check_step(self, request: StepSession | StepTensors) -> None:
        """Check the steps of a session.

        Raises:
            WrongTask: They are not of the kind that the model takes.
            InvalidInput: The inputs are not the step graph's, or more outputs are wanted than it gives.
        """
        if isinstance(request, StepTensors):
            if self.tensors is None:
                raise self._wrong_task(request)
            self.tensors.check_step(request)
            return
        if self.tensors is not None:
            raise self._wrong_task(request)
        num_steps = request.num_steps
        for name, values in request.inputs.items():
            if len(values) != num_steps or name not in self._step_inputs:
                _refuse_inputs(self._step_inputs, request.inputs, num_steps)
        if len(request.inputs) != len(self._step_inputs) or num_steps < 1:
            _refuse_inputs(self._step_inputs, request.inputs, num_steps)
        if not 0 <= request.num_top <= self._top_k:
            raise InvalidInput("num_top", f"0 to {self._top_k}", str(request.num_top))

    def require_steps(self, request: Request) -> None:
        """Check that the model can be stepped from the initial state.

        Raises:
            WrongTask: It cannot.
        """
        if self._attends:
            raise self._wrong_task(request)
        self._require("step", request)

    def _sequence(self, request: RunSequence) -> SequenceTask:
        self._require("sequence", request)
        _check_inputs(self._sequence_inputs, request.inputs, request.length)
        if unknown := set(request.outputs) - self._sequence_outputs.keys():
            raise InvalidInput("outputs", f"some of {sorted(self._sequence_outputs)}", str(sorted(unknown)))
        return SequenceTask(request, self._sequence_outputs)

    def _that_fits(self, task: Task) -> Task:
        """What is larger than all slots or all memory would wait for ever."""
        if task.num_slots > self._num_slots:
            raise InvalidInput("beam_size", f"at most {self._num_slots}", str(task.num_slots))
        if MemoryPages.num_pages(task.num_positions) * PAGE_ROWS > self._num_rows:
            raise InvalidInput("source", f"at most {self._num_rows} tokens", f"{task.num_positions} tokens")
        return task

    def _require(self, graph: GraphKind, request: Request) -> None:
        if graph not in self._graphs:
            raise self._wrong_task(request)

    def _wrong_task(self, request: AnyRequest) -> WrongTask:
        return WrongTask(f"model: expected one {_WANTED[type(request)]}, got {self._name!r} (task {self._task})")


def _check_inputs(expected: Set[str], inputs: Mapping[str, Sequence[Any] | npt.NDArray[Any]], num_steps: int) -> None:
    if inputs.keys() != expected or num_steps < 1 or any(len(values) != num_steps for values in inputs.values()):
        _refuse_inputs(expected, inputs, num_steps)


def _refuse_inputs(expected: Set[str], inputs: Mapping[str, Sequence[Any] | npt.NDArray[Any]], num_steps: int) -> None:
    got = {name: len(values) for name, values in inputs.items()}
    raise InvalidInput("inputs", f"{sorted(expected)} of {max(num_steps, 1)} steps", str(got))
