"""Language modelling without a network: n-grams with interpolated Kneser-Ney smoothing.

Source: Chen and Goodman 1998, eq. 29 and section 2.7 (lower orders count the contexts that a token follows, not its
occurrences); one discount an order, Ney et al. 1994: D = n1 / (n1 + 2 n2). The lowest order is interpolated with the
uniform distribution. Probabilities of all tokens that can come next sum to 1 after every context.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order: context id * V + token, sorted, and what is counted of each.

    Args:
        keys: (n-grams,) sorted.
        counts: (n-grams,) occurrences, or at lower orders how many tokens they follow.
        totals: Sum of the counts after each context, (contexts,).
        kinds: Tokens with a count after each context, (contexts,).
        discount: D.
    """

    keys: Ints
    counts: Floats
    totals: Floats
    kinds: Floats
    discount: float


class NGram:
    """An n-gram model of texts that begin with `<s>` (never predicted) and end with `</s>`.

    Args:
        stream: Token ids of the texts one after another, each ended by `eos`, (tokens,).
        order: n, at least 1; the context is n - 1 tokens.
        vocabulary_size: V; all ids but `bos` and `pad` can be predicted.
        bos: Id of `<s>`.
        eos: Id of `</s>`.
    """

    def __init__(self, stream: npt.NDArray[np.int32], order: int, vocabulary_size: int, bos: int, eos: int) -> None:
        self._order, self._size, self._bos, self._eos = order, vocabulary_size, bos, eos
        self._uniform = 1.0 / (vocabulary_size - 2)
        tokens, predicted = self._pad(stream)
        # Id of the n-gram that ends at each position, by order; that of order 0 is always 0.
        ids = [np.zeros(len(tokens), np.int64)]
        unique: list[Ints] = []
        first: list[Ints] = []
        for _ in range(order):
            keys, at, found = np.unique(self._extend(ids[-1], tokens), return_index=True, return_inverse=True)
            unique.append(keys)
            first.append(at)
            ids.append(found.astype(np.int64))
        self._orders = []
        for k in range(order):
            if k == order - 1:
                counts = np.bincount(ids[k + 1][predicted], minlength=len(unique[k]))
            else:
                # Each distinct longer n-gram counts once for the shorter one that it ends with.
                kinds = first[k + 1][predicted[first[k + 1]]]
                counts = np.bincount(ids[k + 1][kinds], minlength=len(unique[k]))
            self._orders.append(self._summarise(unique[k], counts, 1 if k == 0 else len(unique[k - 1])))

    def negative_log_likelihood(self, stream: npt.NDArray[np.int32]) -> float:
        """Mean over the tokens of a stream, in nats; texts are ended by `eos` as in training."""
        tokens, predicted = self._pad(stream)
        return float(-np.log(self._probabilities(tokens)[predicted]).mean())

    def probabilities(self, context: list[int]) -> Floats:
        """The probability of every token after a context that begins a text, (V,); 0 for none but `<s>` and `<pad>`."""
        rows = np.arange(self._size)
        history = ([self._bos] * self._order + context)[-(self._order - 1) :] if self._order > 1 else []
        found = np.full(self._size, self._uniform)
        for k, part in enumerate(self._orders):
            before = self._context_id(history[len(history) - k :] if k else [])
            found = self._interpolate(part, np.full(self._size, before), rows, found)
        return found

    def _context_id(self, tokens: list[int]) -> int:
        found = 0
        for k, token in enumerate(tokens):
            found = int(self._look_up(self._orders[k], np.array([found]), np.array([token]))[0])
        return found

    def _probabilities(self, tokens: Ints) -> Floats:
        found = np.full(len(tokens), self._uniform)
        before = np.zeros(len(tokens), np.int64)
        for part in self._orders:
            found = self._interpolate(part, before, tokens, found)
            ids = self._look_up(part, before, tokens)
            before = np.concatenate(([-1], ids[:-1]))
        return found

    def _interpolate(self, part: _Order, before: Ints, tokens: Ints, lower: Floats) -> Floats:
        """One order up: (max(c - D, 0) + D * kinds * lower) / total; `lower` where the context is unknown."""
        ids = self._look_up(part, before, tokens)
        known = (before >= 0) & (part.totals[np.maximum(before, 0)] > 0)
        context = np.where(known, before, 0)
        counts = np.where(ids >= 0, part.counts[np.maximum(ids, 0)], 0.0)
        total = np.where(known, part.totals[context], 1.0)
        mixed = np.maximum(counts - part.discount, 0) + part.discount * part.kinds[context] * lower
        return np.where(known, mixed / total, lower)

    def _look_up(self, part: _Order, before: Ints, tokens: Ints) -> Ints:
        """Ids of n-grams by context id and token; -1 where there is no such n-gram."""
        keys = before * self._size + tokens
        at = np.minimum(np.searchsorted(part.keys, keys), len(part.keys) - 1)
        return np.where((before >= 0) & (part.keys[at] == keys), at, -1)

    def _extend(self, ids: Ints, tokens: Ints) -> Ints:
        """Keys of the n-grams one longer: the n-gram that ends one position before, and the token."""
        before = np.concatenate(([0], ids[:-1]))
        return before * self._size + tokens

    def _summarise(self, keys: Ints, counts: npt.NDArray[np.intp], num_contexts: int) -> _Order:
        contexts = keys // self._size
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        totals, kinds = np.zeros(num_contexts), np.zeros(num_contexts)
        np.add.at(totals, contexts, counts)
        np.add.at(kinds, contexts, counts > 0)
        return _Order(keys, counts.astype(np.float64), totals, kinds, once / (once + 2 * twice) if once else 0.5)

    def _pad(self, stream: npt.NDArray[np.int32]) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Put n - 1 times `<s>` before each text, so that no context reaches over a boundary; what is predicted."""
        padding = self._order - 1
        starts = np.concatenate(([0], np.flatnonzero(stream[:-1] == self._eos) + 1))
        tokens = np.insert(stream.astype(np.int64), np.repeat(starts, padding), self._bos)
        return tokens, tokens != self._bos
