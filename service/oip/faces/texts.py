"""Models of ours that read a whole text at a time: tagging and transducing, one text a request."""

from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.interface import (
    AnyRequest,
    Decode,
    Priority,
    RequestId,
    RunSequence,
    SessionId,
    SessionState,
    StateTensors,
)
from service.errors import InvalidInput
from service.models import LiveModel
from service.oip.faces.face import Port
from service.oip.faces.intake import Intake
from service.oip.faces.layout import Rules
from service.oip.faces.outputs import make_tensors
from service.oip.faces.state_ports import StatePorts
from service.oip.faces.wanted import Selection
from service.oip.faces.words import read_words
from service.oip.failures import to_oip
from service.oip.messages import InferRequest, Tensor
from service.text import encode, tagger_arrays

EMISSIONS = ("emissions",)


class TextFace:
    """See the module docstring; implements `Face`.

    A tagger takes `words` (1, T) and gives `tags` (1, T), texts; an encoder-decoder takes `source` (1,), a text, and
    gives the best `target` (1,) and its `log_prob` (1,).

    Args:
        model: A tagger or an encoder-decoder.
    """

    def __init__(self, model: LiveModel) -> None:
        self.model = model
        self.is_stateful = False
        self.max_batch_size = 1
        self._tags = model.manifest.task == "tagger"
        if self._tags:
            self.inputs = {"words": Port("words", "BYTES", ("T",))}
            self.outputs = {"tags": Port("tags", "BYTES", ("T",))}
        else:
            self.inputs = {"source": Port("source", "BYTES", ())}
            self.outputs = {"target": Port("target", "BYTES", ()), "log_prob": Port("log_prob", "FP32", ())}
        self.states: dict[str, Port] = {}
        self.state_outputs: dict[str, Port] = {}
        rules = Rules(model.manifest.name, self.inputs, {}, is_sequence=False, max_rows=1)
        self._intake = Intake(rules, self.outputs, StatePorts(model.manifest.name, ()))

    def prepare(self, request: InferRequest, start: bool) -> "PreparedText":
        """Check a request; see `Face`."""
        model = self.model
        layout, selection = self._intake.check(request)
        rows, _, _ = layout.split(request.inputs)
        try:
            if self._tags:
                words = read_words("words", rows["words"][0])
                return PreparedText(model, tagger_arrays(model, words, "words"), selection)
            (text,) = read_words("source", rows["source"])
            ids = encode(model.tokenizers["source"], text, "source", model.limits.max_input_tokens)
        except InvalidInput as error:
            raise to_oip(error) from None
        return PreparedText(model, tuple(ids), selection)


class PreparedText:
    """See `Prepared`; what is read is the arrays of a tagger or the ids of a source."""

    __slots__ = ("_model", "_read", "_selection")
    initial: StateTensors | None = None
    needs_state = False
    num_rows = 1

    def __init__(
        self, model: LiveModel, read: dict[str, npt.NDArray[np.int64]] | tuple[int, ...], selection: Selection
    ) -> None:
        self._model = model
        self._read = read
        self._selection = selection

    def step(self, work: RequestId, session: SessionId, deadline_s: float | None) -> AnyRequest:
        """There is none: the model keeps no state."""
        raise AssertionError("a model without state is run")

    def run(self, work: RequestId, priority: Priority, deadline_s: float | None) -> AnyRequest:
        """Make the engine's request."""
        read = self._read
        if isinstance(read, dict):
            return RunSequence(work, read, len(read["words"]), EMISSIONS, deadline_s=deadline_s, priority=priority)
        defaults, limits = self._model.manifest.decoding, self._model.limits
        return Decode(
            work,
            source=read,
            beam_size=defaults.beam_size,
            num_best=1,
            length_penalty=defaults.length_penalty,
            max_tokens=min(defaults.max_tokens, limits.max_output_tokens),
            deadline_s=deadline_s,
            priority=priority,
        )

    def outputs(self, value: object, state: SessionState | None) -> tuple[Tensor, ...]:
        """Make the answer."""
        made: dict[str, npt.NDArray[Any]]
        if isinstance(value, dict):
            made = {"tags": self._tags(value["emissions"])}
        else:
            assert isinstance(value, list)
            best = value[0]
            text = self._model.tokenizers["target"].decode(best.tokens)
            made = {"target": _texts([text]), "log_prob": np.array([best.log_prob], np.float32)}
        return make_tensors(self._selection, made, state, 1)

    def _tags(self, emissions: npt.NDArray[np.float32]) -> npt.NDArray[np.object_]:
        """The tags of the best path, or of each word where the model has none, (1, T)."""
        decode = self._model.decode_tags
        ids = emissions.argmax(axis=1).tolist() if decode is None else list(decode(emissions))
        return _texts(self._model.output_vocabulary.decode(ids))[None]


def _texts(texts: list[str]) -> npt.NDArray[np.object_]:
    array = np.empty(len(texts), np.object_)
    array[:] = [text.encode() for text in texts]
    return array
