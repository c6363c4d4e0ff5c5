"""The PyTorch module as a backend: the same feeds, slots and pools as the exported graphs, computed by torch.

It knows the module's own methods only, and nothing of how graphs are emitted.
"""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from export.backend import Array, Feeds
from export.manifest import GraphKind, Manifest
from models.encoder_decoder import EncoderDecoder
from models.language_model import LanguageModel
from models.output import next_log_probs
from models.tagger import Tagger

States = tuple[Tensor, ...]


class TorchBackend:
    """Runs a module, eval mode, on the CPU.

    Args:
        model: One of the three families. It is left as it is.
        manifest: Says which states and memories there are.
        double: Compute in float64 and keep the pools so too: the weights' true answer, for all that matters here.
    """

    def __init__(self, model: nn.Module, manifest: Manifest, double: bool = False) -> None:
        self._model = copy.deepcopy(model).double().eval() if double else model.eval()
        self._dtype = np.float64 if double else np.float32
        self._manifest = manifest
        self._pools: dict[str, Array] = {}

    @property
    def pools(self) -> Mapping[str, Array]:
        """See `Backend`."""
        return self._pools

    def allocate(self, num_slots: int, num_rows: int) -> None:
        """See `Backend`."""
        pooled = [state for state in self._manifest.states if state.pool_input is not None]
        self._pools = {state.name: np.zeros((num_slots, *state.shape), self._dtype) for state in pooled}
        memories = self._manifest.memories
        self._pools |= {spec.name: np.zeros((num_rows, *spec.shape), self._dtype) for spec in memories}

    def run(self, kind: GraphKind, feeds: Feeds) -> dict[str, Array]:
        """See `Backend`."""
        tensors = {name: self._tensor(array) for name, array in feeds.items()}
        with torch.inference_mode():
            if isinstance(self._model, Tagger):
                outputs = self._tagger(self._model, kind, tensors)
            elif isinstance(self._model, LanguageModel):
                outputs = self._language_model(self._model, kind, tensors)
            elif isinstance(self._model, EncoderDecoder):
                outputs = self._encoder_decoder(self._model, kind, tensors)
            else:
                raise TypeError(
                    f"expected a tagger, language model or encoder-decoder, got {type(self._model).__name__}"
                )
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def _tensor(self, array: Array) -> Tensor:
        """Ids as they are, numbers in the backend's precision."""
        return torch.from_numpy(np.ascontiguousarray(array, self._dtype if array.dtype.kind == "f" else np.int64))

    def _tagger(self, model: Tagger, kind: GraphKind, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if kind == "sequence":
            spelt = (feeds["words"], feeds["characters"], feeds["word_lengths"])
            emissions, final = model(*spelt, feeds["lengths"], self._initial(feeds))
            return {"emissions": emissions, **self._final(final)}
        spelt = (feeds["words"][:, None], feeds["characters"][:, None], feeds["word_lengths"][:, None])
        emissions, states = model(*spelt, None, self._read(feeds))
        self._write(feeds, states)
        return {"log_probs": torch.log_softmax(emissions[:, 0], dim=-1)}

    def _language_model(self, model: LanguageModel, kind: GraphKind, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if kind == "sequence":
            logits, final = model(feeds["tokens"], feeds["lengths"], self._initial(feeds))
            log_probs = next_log_probs(logits).gather(2, feeds["targets"][:, :, None])[:, :, 0]
            return {"target_log_probs": log_probs, **self._final(final)}
        log_probs, states = model.step(feeds["tokens"], self._read(feeds))
        self._write(feeds, states)
        return {"log_probs": log_probs}

    def _encoder_decoder(
        self, model: EncoderDecoder, kind: GraphKind, feeds: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if kind == "encode":
            memory, keys, states = model.encode(feeds["source"], feeds["lengths"])
            self._pools["memory"][feeds["source_rows"].numpy()] = memory.numpy()
            self._pools["keys"][feeds["source_rows"].numpy()] = keys.numpy()
            self._write(feeds, states)
            return {}
        rows = feeds["source_rows"].numpy()
        memory, keys = (torch.from_numpy(self._pools[name][rows]) for name in ("memory", "keys"))
        log_probs, states = model.step(feeds["tokens"], self._read(feeds), memory, keys, feeds["source_lengths"])
        self._write(feeds, states)
        return {"log_probs": log_probs}

    def _initial(self, feeds: Mapping[str, Tensor]) -> States:
        return tuple(feeds[spec.sequence_input] for spec in self._manifest.states if spec.sequence_input is not None)

    def _final(self, states: States) -> dict[str, Tensor]:
        named = zip(self._manifest.states, states, strict=True)
        return {spec.sequence_output: state for spec, state in named if spec.sequence_output is not None}

    def _read(self, feeds: Mapping[str, Tensor]) -> States:
        slots = feeds["read_slots"].numpy()
        return tuple(torch.from_numpy(self._pools[spec.name][slots]) for spec in self._manifest.states)

    def _write(self, feeds: Mapping[str, Tensor], states: States) -> None:
        slots = feeds["write_slots"].numpy()
        for spec, state in zip(self._manifest.states, states, strict=True):
            self._pools[spec.name][slots] = state.numpy()
