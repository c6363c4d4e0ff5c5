"""The Lightning module of each family."""

from torch import Tensor
from torch.nn import functional

from models.encoder_decoder import EncoderDecoder
from models.language_model import LanguageModel
from models.masks import length_mask
from models.symbols import NEVER_NEXT, PAD_ID
from models.tagger import Tagger
from models.training.batches import Batch, ChunkBatch, PairBatch, TaggedBatch
from models.training.chunked_loss import chunked_cross_entropy
from models.training.module import TrainingModule

MANY_LOGITS = 8_000_000


class TaggerModule(TrainingModule):
    """Negative log-likelihood of the tags, by the CRF or word by word; the mean over words."""

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss a word, in nats, ()."""
        assert isinstance(batch, TaggedBatch) and isinstance(self.model, Tagger)
        emissions, _ = self.model(batch.words, batch.characters, batch.word_lengths, batch.lengths)
        return tagger_loss(self.model, emissions, batch) / batch.lengths.sum()


class EncoderDecoderModule(TrainingModule):
    """Teacher forcing: the decoder reads the right words and is asked for the next one; the mean over target tokens."""

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss a target token, in nats, (), with label smoothing where configured."""
        assert isinstance(batch, PairBatch) and isinstance(self.model, EncoderDecoder)
        logits = self.model(batch.source, batch.source_lengths, batch.target_in)
        return pair_loss(logits, batch.target_out, self.config.label_smoothing)


class LanguageModelModule(TrainingModule):
    """Truncated backpropagation through time: the state is carried over from chunk to chunk, the gradient is not.

    Source: Mikolov et al. 2010; Zaremba et al. 2014, section 4.
    """

    _states: tuple[Tensor, ...] | None = None

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss a token, in nats, ()."""
        assert isinstance(batch, ChunkBatch) and isinstance(self.model, LanguageModel)
        states = None if batch.first else self._states
        hidden, states = self.model.hidden(batch.inputs, None, states)
        self._states = tuple(state.detach() for state in states)
        return self._cross_entropy(hidden.flatten(0, 1), batch.targets.flatten())

    def _cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of outputs (N, H), without ever holding all logits where there are many."""
        assert isinstance(self.model, LanguageModel)
        weight, bias = self.model.projection()
        # A process of several may have nothing but padding at the end of the text.
        real = targets != PAD_ID
        num_tokens = real.sum().clamp(min=1)
        # Mixed precision casts inside `linear`, which the chunked loss does without.
        if len(targets) * len(bias) < MANY_LOGITS or self.config.precision != "fp32":
            logits = functional.linear(hidden, weight, bias).float()
            nats = functional.cross_entropy(logits, targets, ignore_index=PAD_ID, reduction="sum")
        else:
            nats = chunked_cross_entropy(hidden[real], weight, bias, targets[real])
        return nats / num_tokens

    def carried(self) -> dict[str, Tensor]:
        """The recurrent state at the end of the last chunk, (tracks, H) each, by place."""
        return {} if self._states is None else {str(i): state for i, state in enumerate(self._states)}

    def restore_carried(self, carried: dict[str, Tensor]) -> None:
        """Take over what `carried` gave."""
        self._states = tuple(carried[str(i)] for i in range(len(carried))) or None


def tagger_loss(model: Tagger, emissions: Tensor, batch: TaggedBatch) -> Tensor:
    """Negative log-likelihood of the tags of a batch, in nats, summed, ().

    Args:
        model: For its CRF, if it has one.
        emissions: (B, T, K).
        batch: With the tags.
    """
    emissions = emissions.float()
    if model.crf is not None:
        return -model.crf.log_likelihood(emissions, batch.tags, batch.lengths).sum()
    mask = length_mask(batch.lengths, emissions.shape[1])
    return functional.cross_entropy(emissions[mask], batch.tags[mask], reduction="sum")


def pair_loss(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy of target tokens, in nats, ().

    Source of the smoothing: Szegedy et al. 2016, section 7; what it spreads goes to the tokens that can come next, so
    not to `<pad>` and `<s>`.

    Args:
        logits: (B, T, V).
        targets: (B, T) int64; `<pad>` does not count.
        label_smoothing: Share of the probability that is spread evenly.
    """
    logits, targets = logits.flatten(0, 1).float(), targets.flatten()
    if label_smoothing == 0:
        return functional.cross_entropy(logits, targets, ignore_index=PAD_ID)
    real = targets != PAD_ID
    log_probs = functional.log_softmax(logits[real], dim=-1)  # (tokens, V)
    right = log_probs.gather(1, targets[real, None]).sum()
    spread = log_probs.sum() - log_probs[:, list(NEVER_NEXT)].sum()
    spread = spread / (logits.shape[1] - len(NEVER_NEXT))
    return -((1 - label_smoothing) * right + label_smoothing * spread) / real.sum()
