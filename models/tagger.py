"""The tagger: words and their characters -> recurrent stack -> a score a tag.

Source: Lample et al. 2016, https://arxiv.org/abs/1603.01360; Ling et al. 2015 for the character BiRNN.
"""

import torch
from torch import Tensor, nn

from models.config import TaggerConfig
from models.crf import LinearChainCrf
from models.initialise import initialise_embedding, initialise_linear
from models.masks import length_mask
from models.recurrent import RecurrentStack, States
from models.symbols import PAD_ID, UNK_ID


class Tagger(nn.Module):
    """Word embedding + final states of a character BiRNN -> (Bi)RNN -> scores per tag, greedy or CRF.

    Args:
        config: Hyperparameters.
        num_words: Size of the word vocabulary.
        num_characters: Size of the character vocabulary.
        num_tags: K.
    """

    def __init__(self, config: TaggerConfig, num_words: int, num_characters: int, num_tags: int) -> None:
        super().__init__()
        self.config = config
        self.num_tags = num_tags
        self.word_embedding = nn.Embedding(num_words, config.word_dim, padding_idx=PAD_ID)
        self.character_embedding = nn.Embedding(num_characters, config.character_dim, padding_idx=PAD_ID)
        self.character_stack = RecurrentStack(
            config.cell, config.character_dim, config.character_hidden, layers=1, bidirectional=True
        )
        self.stack = RecurrentStack(
            config.cell,
            config.word_dim + self.character_stack.output_size,
            config.hidden,
            config.layers,
            config.bidirectional,
            config.dropout,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(self.stack.output_size, num_tags)
        self.crf = LinearChainCrf(num_tags) if config.crf else None
        initialise_embedding(self.word_embedding)
        initialise_embedding(self.character_embedding)
        initialise_linear(self.output)

    def initial_states(self, batch_size: int) -> States:
        """Zeros, (B, H) each, of the word RNN."""
        return self.stack.initial_states(batch_size)

    def embed(self, words: Tensor, characters: Tensor, word_lengths: Tensor) -> Tensor:
        """Embed words as what they are and how they are spelt.

        In training a word is read as `<unk>` with chance `config.word_dropout`; its characters stay.

        Args:
            words: (B, T) int64.
            characters: (B, T, C) int64.
            word_lengths: (B, T) int64, characters of each word, 1 for padding.

        Returns:
            (B, T, word_dim + 2 character_hidden).
        """
        if self.training and self.config.word_dropout > 0:
            dropped = torch.rand(words.shape, device=words.device) < self.config.word_dropout
            words = words.masked_fill(dropped & (words != PAD_ID), UNK_ID)
        spelt = self.character_embedding(characters.flatten(0, 1))  # (B*T, C, character_dim)
        _, states = self.character_stack(self.dropout(spelt), word_lengths.flatten())
        final = torch.cat(states[:2], dim=-1).view(*words.shape, -1)  # hidden states, forward and backward
        return torch.cat([self.word_embedding(words), final], dim=-1)

    def forward(
        self,
        words: Tensor,
        characters: Tensor,
        word_lengths: Tensor,
        lengths: Tensor | None = None,
        states: States | None = None,
    ) -> tuple[Tensor, States]:
        """Score the tags of every word.

        Args:
            words: (B, T) int64.
            characters: (B, T, C) int64.
            word_lengths: (B, T) int64, characters of each word, 1 for padding.
            lengths: (B,) int64, words of each sentence; None where all have T.
            states: Of the word RNN; None is zeros.

        Returns:
            Emissions (B, T, K), meaningless past the lengths, and the final states of the word RNN.
        """
        embedded = self.dropout(self.embed(words, characters, word_lengths))
        outputs, states = self.stack(embedded, lengths, states)
        emissions: Tensor = self.output(self.dropout(outputs))
        return emissions, states

    def decode(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """The best tags (B, T) int64, 0 past the end: by the CRF, or each for itself without one.

        Args:
            emissions: (B, T, K), from `forward`.
            lengths: (B,) int64.
        """
        if self.crf is not None:
            return self.crf.viterbi(emissions, lengths)[0]
        return emissions.argmax(dim=-1).masked_fill(~length_mask(lengths, emissions.shape[1]), 0)
