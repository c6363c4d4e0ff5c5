"""The encoder-decoder with attention.

Source: Bahdanau et al. 2015, https://arxiv.org/abs/1409.0473. Deviations: LSTM or GRU of any depth; all decoder layers
start from the final hidden states of the encoder's top layer, both directions; the maxout before the output is a tanh.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.attention import Attention
from models.cells import RecurrentCell
from models.config import EncoderDecoderConfig
from models.initialise import initialise_embedding, initialise_linear
from models.masks import length_mask
from models.output import next_log_probs
from models.recurrent import RecurrentStack, States
from models.symbols import PAD_ID


class EncoderDecoder(nn.Module):
    """Encoder RNN -> attention -> decoder RNN that reads the previous word and the context at every step.

    At step t the context c_t is read with the decoder's previous top hidden state h_{t-1}; the first layer reads
    [embedded word; c_t]; the output is softmax(W tanh(U [h_t; c_t; embedded word])).

    Args:
        config: Hyperparameters.
        source_size: Size of the source vocabulary.
        target_size: V, size of the target vocabulary.
    """

    def __init__(self, config: EncoderDecoderConfig, source_size: int, target_size: int) -> None:
        super().__init__()
        self.config = config
        self.target_size = target_size
        self.source_embedding = nn.Embedding(source_size, config.source_dim, padding_idx=PAD_ID)
        self.target_embedding = nn.Embedding(target_size, config.target_dim, padding_idx=PAD_ID)
        self.encoder = RecurrentStack(
            config.cell, config.source_dim, config.hidden, config.encoder_layers, config.bidirectional, config.dropout
        )
        self.memory_size = self.encoder.output_size
        self.attention = Attention(config.attention, self.memory_size, config.hidden, config.attention_dim)
        first = config.target_dim + self.memory_size
        self.decoder = nn.ModuleList(
            RecurrentCell(config.cell, first if layer == 0 else config.hidden, config.hidden)
            for layer in range(config.decoder_layers)
        )
        self.num_states = sum(cell.num_states for cell in self.cells)
        self.bridge = nn.Linear(self.memory_size, self.num_states * config.hidden)
        self.readout = nn.Linear(config.hidden + self.memory_size + config.target_dim, config.hidden)
        self.output = nn.Linear(config.hidden, target_size)
        self.dropout = nn.Dropout(config.dropout)
        for embedding in (self.source_embedding, self.target_embedding):
            initialise_embedding(embedding)
        for linear in (self.bridge, self.readout, self.output):
            initialise_linear(linear)

    @property
    def cells(self) -> list[RecurrentCell]:
        """The decoder's layers, bottom first."""
        return [cell for cell in self.decoder if isinstance(cell, RecurrentCell)]

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, States]:
        """Read the sources.

        Args:
            source: (B, S) int64.
            lengths: (B,) int64, 1 to S.

        Returns:
            Memory (B, S, M), keys (B, S, A) and the decoder's initial states, (B, H) each.
        """
        embedded = self.dropout(self.source_embedding(source))  # (B, S, E)
        memory, final = self.encoder(embedded, lengths)
        per_layer = self.encoder.num_states // self.encoder.layers
        top = torch.cat(final[-per_layer:][: self.encoder.directions], dim=-1)  # (B, M) hidden, both directions
        chunks = self.bridge(top).chunk(self.num_states, dim=-1)
        # Hidden states stay within (-1, 1), where every later one is; cells are free.
        is_cell = self.config.cell == "lstm"
        states = tuple(c if is_cell and i % 2 == 1 else torch.tanh(c) for i, c in enumerate(chunks))
        return memory, self.attention.keys(memory), states

    def step(
        self, tokens: Tensor, states: States, memory: Tensor, keys: Tensor, lengths: Tensor
    ) -> tuple[Tensor, States]:
        """Read one target token a row.

        Args:
            tokens: (B,) int64, the previous token of each target.
            states: (B, H) each, in the order of `models.states.state_names`.
            memory: (B, S, M), from `encode`.
            keys: (B, S, A), from `encode`.
            lengths: (B,) int64 of the sources.

        Returns:
            Log-probabilities (B, V) of the next token, -1e9 for `<pad>` and `<s>`, and the new states.
        """
        embedded = self.dropout(self.target_embedding(tokens))
        mask = length_mask(lengths, memory.shape[1])
        projected, context_weight = self._project_words(embedded)
        context, states = self._advance(projected, context_weight, states, memory, keys, mask)
        return next_log_probs(self._read_out(states[self._top], context, embedded)), states

    def forward(self, source: Tensor, source_lengths: Tensor, target_in: Tensor) -> Tensor:
        """Score targets with teacher forcing.

        Args:
            source: (B, S) int64.
            source_lengths: (B,) int64, 1 to S.
            target_in: (B, T) int64, `<s>` and then the target.

        Returns:
            Logits (B, T, V) of the token after each of `target_in`.
        """
        memory, keys, states = self.encode(source, source_lengths)
        mask = length_mask(source_lengths, source.shape[1])
        embedded = self.dropout(self.target_embedding(target_in))  # (B, T, E)
        tops, contexts = [], []
        projected, context_weight = self._project_words(embedded)
        for step in projected.unbind(dim=1):
            context, states = self._advance(step, context_weight, states, memory, keys, mask)
            tops.append(states[self._top])
            contexts.append(context)
        return self._read_out(torch.stack(tops, dim=1), torch.stack(contexts, dim=1), embedded)

    @property
    def _top(self) -> int:
        """Index of the top layer's hidden state among the states."""
        return self.num_states - self.cells[-1].num_states

    def _project_words(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """The words' part of the first layer's gates, (..., G*H), for one step or for all at once.

        The second result is the weight of the context's part, (G*H, M): cut out here, once a sequence, because the
        backward pass of every cut fills a tensor of the whole weight's size.
        """
        first, width = self.cells[0], self.config.target_dim
        words = functional.linear(embedded, first.weight_ih[:, :width], first.bias_ih)
        return words, first.weight_ih[:, width:]

    def _advance(
        self, projected: Tensor, context_weight: Tensor, states: States, memory: Tensor, keys: Tensor, mask: Tensor
    ) -> tuple[Tensor, States]:
        """One decoder step from what `_project_words` gives: context (B, M) and new states."""
        context, _ = self.attention(states[self._top], memory, keys, mask)
        first = self.cells[0]
        projected = projected + functional.linear(context, context_weight)
        new: list[Tensor] = []
        for cell in self.cells:
            if cell is not first:
                projected = functional.linear(self.dropout(new[-cell.num_states]), cell.weight_ih, cell.bias_ih)
            new.extend(cell(projected, states[len(new) : len(new) + cell.num_states]))
        return context, tuple(new)

    def _read_out(self, hidden: Tensor, context: Tensor, embedded: Tensor) -> Tensor:
        """Logits (..., V)."""
        read = torch.tanh(self.readout(torch.cat([hidden, context, embedded], dim=-1)))
        logits: Tensor = self.output(self.dropout(read))
        return logits
