"""A model of ours that can be stepped: ids or words in, the best outputs of each step out, a sequence as state."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.interface import (
    AnyRequest,
    Priority,
    RequestId,
    SessionId,
    SessionState,
    StateTensors,
    StepOutputs,
    StepSession,
)
from service.errors import InvalidInput
from service.models import LiveModel
from service.oip.errors import OipError
from service.oip.faces.face import Port
from service.oip.faces.intake import Intake
from service.oip.faces.layout import Rules
from service.oip.faces.outputs import make_tensors
from service.oip.faces.state_ports import StatePorts
from service.oip.faces.wanted import Selection
from service.oip.faces.words import read_words
from service.oip.failures import to_oip
from service.oip.messages import InferRequest, Tensor
from service.text import tagger_arrays

StepInputs = Mapping[str, Sequence[Any]]


class TokenFace:
    """See the module docstring; implements `Face`.

    A language model takes `tokens` (1, T), ids, and gives `top_tokens` (1, T, k); a tagger takes `words` (1, T) and
    gives `top_tags` (1, T, k), texts. Both give `top_log_probs` (1, T, k). T are steps.

    Args:
        model: That supports sessions.
    """

    def __init__(self, model: LiveModel) -> None:
        self.model = model
        self.is_stateful = True
        self.max_batch_size = model.max_batch_rows or 1
        manifest = model.manifest
        self._spells = manifest.task == "tagger"
        best: tuple[int | str, ...] = ("T", model.limits.top_k)
        taken = Port("words", "BYTES", ("T",)) if self._spells else Port("tokens", "INT64", ("T",))
        told = Port("top_tags", "BYTES", best) if self._spells else Port("top_tokens", "INT64", best)
        self.inputs = {taken.name: taken}
        self.outputs = {told.name: told, "top_log_probs": Port("top_log_probs", "FP32", best)}
        self._state_ports = StatePorts(manifest.name, manifest.states)
        self.states, self.state_outputs = self._state_ports.given, self._state_ports.told
        rules = Rules(manifest.name, self.inputs, self.states, is_sequence=True, max_rows=1)
        self._intake = Intake(rules, self.outputs, self._state_ports)

    def prepare(self, request: InferRequest, start: bool) -> "PreparedTokens":
        """Check a request; see `Face`."""
        layout, selection = self._intake.check(request)
        rows, _, given = layout.split(request.inputs)
        initial = self._state_ports.initial(given, start)
        if self._spells:
            (words,) = rows["words"]
            try:
                arrays = tagger_arrays(self.model, read_words("words", words), "words")
            except InvalidInput as error:
                raise to_oip(error) from None
            return PreparedTokens(
                self.model, {name: array.tolist() for name, array in arrays.items()}, len(words), selection, initial
            )
        ids = rows["tokens"][0].tolist()
        most, size = self.model.limits.max_input_tokens, self.model.num_step_ids
        if not 1 <= len(ids) <= most:
            raise OipError("invalid_argument", f"input 'tokens' must have 1 to {most} ids, got {len(ids)}")
        if min(ids) < 0 or max(ids) >= size:
            raise OipError("invalid_argument", f"input 'tokens' must have ids of 0 to {size - 1}")
        return PreparedTokens(self.model, {"tokens": ids}, len(ids), selection, initial)


class PreparedTokens:
    """See `Prepared`."""

    __slots__ = ("_inputs", "_model", "_selection", "initial", "num_rows")

    def __init__(
        self, model: LiveModel, inputs: StepInputs, num_rows: int, selection: Selection, initial: StateTensors | None
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._selection = selection
        self.num_rows = num_rows
        self.initial = initial

    @property
    def needs_state(self) -> bool:
        """Whether states are among the outputs that it wants."""
        return self._selection.needs_state

    def step(self, work: RequestId, session: SessionId, deadline_s: float | None) -> AnyRequest:
        """Make the engine's request."""
        num_top = self._model.limits.top_k if self._selection.graph_outputs else 0
        return StepSession(work, session, self._inputs, self.num_rows, num_top, None, deadline_s)

    def run(self, work: RequestId, priority: Priority, deadline_s: float | None) -> AnyRequest:
        """There is none without a sequence."""
        raise AssertionError("a model with state is stepped")

    def outputs(self, value: object, state: SessionState | None) -> tuple[Tensor, ...]:
        """Make the answer."""
        assert type(value) is StepOutputs
        made: dict[str, npt.NDArray[Any]] = {}
        if self._selection.graph_outputs:
            ids = value.token_ids
            if self._model.manifest.task == "tagger":
                decode = self._model.output_vocabulary.decode
                texts = [[text.encode() for text in decode(row)] for row in ids]
                made["top_tags"] = np.array([texts], np.object_)
            else:
                made["top_tokens"] = np.array([ids], np.int64)
            made["top_log_probs"] = np.array([value.log_probs], np.float32)
        return make_tensors(self._selection, made, state, 2)
