"""From examples to tensors."""

import numpy as np
import torch

from models.data.examples import Pair, TaggedSentence
from models.tokenizer import Tokenizer
from models.training.chunks import encode_stream
from models.training.pairs import EncodedPairs, PairTraining, pair_evaluation
from models.training.sentences import EncodedSentences, sentence_evaluation
from models.vocabulary import Vocabulary

SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
LETTERS = Vocabulary((*SPECIALS, *"abcdef"), 4)
A, B, C, D = range(4, 8)


def tokenizers(reverse: bool = False) -> dict[str, Tokenizer]:
    return {
        "source": Tokenizer("characters", LETTERS, reverse=reverse),
        "target": Tokenizer("whitespace", LETTERS),
    }


def test_a_pair_batch_pads_both_sides_and_shifts_the_target() -> None:
    encoded = EncodedPairs([Pair("abc", ("a b", "c")), Pair("z", ("b a d",))], tokenizers())
    batch = encoded.collate(np.array([0, 2]))  # the first target of each
    assert batch.source.tolist() == [[A, B, C], [1, 0, 0]]
    assert batch.source_lengths.tolist() == [3, 1]
    assert batch.target_in.tolist() == [[2, A, B, 0], [2, B, A, D]]
    assert batch.target_out.tolist() == [[A, B, 3, 0], [B, A, D, 3]]
    other = encoded.collate(np.array([1]))
    assert (other.source.tolist(), other.target_out.tolist(), other.rows.tolist()) == ([[A, B, C]], [[C, 3]], [0])


def test_a_reversed_source_is_read_back_to_front() -> None:
    batch = EncodedPairs([Pair("abc", ("a",))], tokenizers(reverse=True)).collate(np.array([0]))
    assert batch.source.tolist() == [[C, B, A]]


def test_an_epoch_has_every_target_and_an_evaluation_every_source() -> None:
    pairs = [Pair("abcdef"[: i % 5 + 1], ("a", "b")[: i % 2 + 1]) for i in range(30)]
    encoded = EncodedPairs(pairs, tokenizers())
    training = PairTraining(encoded, 40, 5, seed=1)
    rows = [row for i in range(training.num_batches(0)) for row in training.batch(0, i).rows.tolist()]
    assert sorted(rows) == sorted([*range(30), *range(1, 30, 2)])
    assert sorted(row for batch in pair_evaluation(encoded, 7) for row in batch.rows.tolist()) == list(range(30))


def test_a_sentence_batch_spells_each_word() -> None:
    vocabularies = {
        "words": Tokenizer("none", Vocabulary((*SPECIALS, "ab"), 4), lowercase=True),
        "characters": Tokenizer("characters", Vocabulary((*SPECIALS, *"abAB"), 4)),
        "tags": Tokenizer("none", Vocabulary(("X", "Y"), 0)),
    }
    sentences = [TaggedSentence(("AB", "ab", "c"), ("X", "Y", "Y")), TaggedSentence(("b",), ("Y",))]
    (batch,) = sentence_evaluation(EncodedSentences(sentences, vocabularies), max_rows=5)
    assert batch.rows.tolist() == [1, 0]
    assert batch.words.tolist() == [[1, 0, 0], [4, 4, 1]]
    assert batch.characters.tolist() == [[[5, 0], [0, 0], [0, 0]], [[6, 7], [4, 5], [1, 0]]]
    assert batch.word_lengths.tolist() == [[1, 1, 1], [2, 2, 1]]
    assert batch.lengths.tolist() == [1, 3]
    assert batch.tags.tolist() == [[1, 0, 0], [0, 1, 1]]
    assert batch.characters.dtype == torch.int64


def test_a_stream_ends_every_text() -> None:
    stream = encode_stream(["a b", "", "c"], Tokenizer("whitespace", LETTERS))
    assert stream.tolist() == [A, B, 3, 3, C, 3]
