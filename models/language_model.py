"""The recurrent language model. Source: Zaremba et al. 2014, https://arxiv.org/abs/1409.2329."""

from torch import Tensor, nn
from torch.nn import functional

from models.config import LanguageModelConfig
from models.initialise import initialise_embedding, initialise_linear
from models.output import next_log_probs
from models.recurrent import RecurrentStack, States
from models.symbols import PAD_ID


class LanguageModel(nn.Module):
    """Embedding -> RNN -> scores of the next token.

    With `config.tied` the output weights are the embedding's (Press and Wolf 2017), and are not a second entry of the
    state dict.

    Args:
        config: Hyperparameters.
        vocabulary_size: V.
    """

    def __init__(self, config: LanguageModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, config.dim, padding_idx=PAD_ID)
        self.stack = RecurrentStack(config.cell, config.dim, config.hidden, config.layers, dropout=config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        output = nn.Linear(config.hidden, vocabulary_size)
        initialise_embedding(self.embedding)
        initialise_linear(output)
        self.output_weight = None if config.tied else output.weight
        self.output_bias = output.bias

    def initial_states(self, batch_size: int) -> States:
        """Zeros, (B, H) each."""
        return self.stack.initial_states(batch_size)

    def projection(self) -> tuple[Tensor, Tensor]:
        """Output weights (V, H) and biases (V,), wherever they live."""
        weight = self.embedding.weight if self.output_weight is None else self.output_weight
        return weight, self.output_bias

    def forward(
        self, tokens: Tensor, lengths: Tensor | None = None, states: States | None = None
    ) -> tuple[Tensor, States]:
        """Score every next token.

        Args:
            tokens: (B, T) int64, what the model reads.
            lengths: (B,) int64, at least 1; None where every sequence has T tokens.
            states: Carried over from the text before; None starts afresh.

        Returns:
            Logits (B, T, V) of the token after each, meaningless past the lengths, and the states after the last.
        """
        hidden, states = self.hidden(tokens, lengths, states)
        return functional.linear(hidden, *self.projection()), states

    def hidden(
        self, tokens: Tensor, lengths: Tensor | None = None, states: States | None = None
    ) -> tuple[Tensor, States]:
        """Read as `forward` does, and stop before the output: what `projection` turns into logits.

        Returns:
            (B, T, H), and the states after the last token.
        """
        embedded = self.dropout(self.embedding(tokens))  # (B, T, E)
        outputs, states = self.stack(embedded, lengths, states)
        return self.dropout(outputs), states

    def step(self, tokens: Tensor, states: States) -> tuple[Tensor, States]:
        """Read one token a row.

        Args:
            tokens: (B,) int64.
            states: (B, H) each.

        Returns:
            Log-probabilities (B, V) of the next token, -1e9 for `<pad>` and `<s>`, and the new states.
        """
        logits, states = self(tokens[:, None], None, states)
        return next_log_probs(logits[:, 0]), states
