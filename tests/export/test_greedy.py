from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from export.backend import Array, Feeds, Floats
from export.greedy import NEW_TOKENS, PROMPT_TOKENS, Decoded, Greedy, best
from export.manifest import GraphKind, Manifest
from export.parity import OnnxBackend
from export.quality import QualityLimits, measure_quality
from export.real_inputs import memory_rows, tagger_batches, text_batches
from models.tokenizer import Tokenizer
from models.training.errors import RunError
from models.vocabulary import Vocabulary
from tests.export.accumulator import (
    EMBEDDING,
    OUTPUT,
    TOKENS,
    NumpyAccumulator,
    log_softmax,
    sequence_graph,
    step_graph,
    write_bundle,
)

TOKENIZERS = {"tokens": Tokenizer("characters", Vocabulary(TOKENS, 4))}
SAMPLES = [{"text": "abcdefgh"[start:stop]} for start in range(8) for stop in range(start + 1, 9)] + [
    {"text": "gab" * 30}
]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_bundle(tmp_path, step_graph(), sequence_graph())[1]


def by_hand(text: str) -> list[int]:
    """Greedy continuation of one text by one, straight from the definition."""
    ids = [2, *TOKENIZERS["tokens"].encode(text)][:PROMPT_TOKENS]
    total, answer = EMBEDDING[ids].sum(axis=0), list[int]()
    for _ in range(NEW_TOKENS):
        answer.append(int(log_softmax(np.asarray(total @ OUTPUT, np.float32)).argmax()))
        total = total + EMBEDDING[answer[-1]]
    return answer


def test_a_language_model_goes_on_as_one_text_at_a_time_would(manifest: Manifest) -> None:
    decoded = Greedy(manifest, SAMPLES, TOKENIZERS).decode(NumpyAccumulator())
    assert decoded.answers == {index: by_hand(str(sample["text"])) for index, sample in enumerate(SAMPLES)}
    assert decoded.count == 0


def test_graphs_that_agree_decide_alike_on_every_token(tmp_path: Path) -> None:
    folder, manifest = write_bundle(tmp_path, step_graph(), sequence_graph())
    decoded = Greedy(manifest, SAMPLES, TOKENIZERS).decode(NumpyAccumulator(), OnnxBackend(folder, manifest), 2e-5)
    assert (decoded.differing, decoded.ties) == (0, 0)
    lengths = [min(1 + len(str(sample["text"])), PROMPT_TOKENS) for sample in SAMPLES]
    # One decision for each token read: all but the last of the prompt, then the new ones.
    assert decoded.count == sum(length - 1 + NEW_TOKENS for length in lengths)


def test_a_graph_that_decides_otherwise_is_noticed_and_the_leader_goes_its_way(tmp_path: Path) -> None:
    folder, manifest = write_bundle(tmp_path, step_graph(np.roll(EMBEDDING, 1, axis=0)), sequence_graph())
    greedy = Greedy(manifest, SAMPLES, TOKENIZERS)
    decoded = greedy.decode(NumpyAccumulator(), OnnxBackend(folder, manifest), 2e-5)
    assert 0 < decoded.differing <= decoded.count
    assert decoded.answers == greedy.decode(NumpyAccumulator()).answers


def test_quality_of_equal_graphs_is_no_loss_and_of_others_past_the_limit(tmp_path: Path) -> None:
    folder, manifest = write_bundle(tmp_path, step_graph(), sequence_graph())
    greedy = Greedy(manifest, SAMPLES, TOKENIZERS)
    same = measure_quality(OnnxBackend(folder, manifest), NumpyAccumulator(), greedy)
    assert [row.measure.split(" ")[0] for row in same] == ["decisions", "perplexity"]
    assert all(row.passed and abs(row.loss) < 1e-6 for row in same)

    noise = np.random.default_rng(0).normal(0, 0.5, EMBEDDING.shape).astype(np.float32)
    folder, manifest = write_bundle(
        tmp_path / "noisy", step_graph(EMBEDDING + noise), sequence_graph(EMBEDDING - noise)
    )
    noisy = measure_quality(OnnxBackend(folder, manifest), NumpyAccumulator(), greedy)
    assert not any(row.passed for row in noisy)
    lax = QualityLimits(disagreement=1.0, perplexity=100.0)
    assert all(row.passed for row in measure_quality(OnnxBackend(folder, manifest), NumpyAccumulator(), greedy, lax))


def test_perplexity_is_that_of_each_text_scored_alone(manifest: Manifest) -> None:
    nats, count = 0.0, 0
    for sample in SAMPLES:
        ids = [2, *TOKENIZERS["tokens"].encode(str(sample["text"])), 3]
        for position, target in list(enumerate(ids))[1:64]:
            nats -= log_softmax(np.asarray(EMBEDDING[ids[:position]].sum(axis=0) @ OUTPUT, np.float32))[target]
            count += 1
    backend = NumpyAccumulator()
    row = measure_quality(backend, backend, Greedy(manifest, SAMPLES, TOKENIZERS))[1]
    assert row.count == count
    assert row.quantized == row.fp32 == pytest.approx(np.exp(nats / count), rel=1e-5)


def test_decisions_are_judged_where_they_are_real_and_ties_apart() -> None:
    decoded = Decoded()
    scores = np.array([[1.0, 1.0, 0.0], [3.0, 1.0, 2.9], [5.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    chosen, followed = np.array([0, 0, 0, 0]), np.array([1, 2, 0, 2])
    decoded.judge(scores, chosen, followed, np.array([True, True, True, False]), tolerance=0.01)
    assert (decoded.count, decoded.ties, decoded.differing) == (3, 1, 1)


class Transducer:
    """Copies its source to its target and then ends; its memory is the source itself, its state the position."""

    def __init__(self, stutters_at: int | None = None) -> None:
        self.arrays: dict[str, Floats] = {}
        self.stutters_at = stutters_at

    @property
    def pools(self) -> Mapping[str, Floats]:
        return self.arrays

    def allocate(self, num_slots: int, num_rows: int) -> None:
        self.arrays = {"position": np.zeros((num_slots, 1), np.float32), "memory": np.zeros((num_rows, 1), np.float32)}

    def run(self, kind: GraphKind, feeds: Feeds) -> dict[str, Array]:
        if kind == "encode":
            self.arrays["memory"][feeds["source_rows"], 0] = feeds["source"]
            self.arrays["position"][feeds["write_slots"]] = 0
            return {}
        at = self.arrays["position"][feeds["read_slots"], 0].astype(int)
        self.arrays["position"][feeds["write_slots"], 0] = at + 1
        following = []
        for row, position in enumerate(at):
            if position >= feeds["source_lengths"][row]:
                following.append(3)
            elif position == self.stutters_at:
                following.append(1)
            else:
                following.append(int(self.arrays["memory"][feeds["source_rows"][row, position], 0]))
        return {"log_probs": np.where(np.arange(len(TOKENS)) == np.array(following)[:, None], 0, -5).astype(np.float32)}


@pytest.fixture
def transduction(manifest: Manifest) -> Greedy:
    changed = manifest.model_copy(
        update={"task": "encoder_decoder", "decoding": manifest.decoding.model_copy(update={"max_tokens": 6})}
    )
    samples = [
        {"source": text, "targets": ["aaaaaaaaa", text[:6]]}
        for text in ("a", "bc", "abcdefgh", "hg", "e" * 6, "cab", "dd", "f", "gfe", "ab")
    ]
    tokenizer = Tokenizer("characters", Vocabulary(TOKENS, 4))
    return Greedy(changed, samples, {"source": tokenizer, "target": tokenizer})


def test_sources_are_decoded_to_their_end_or_to_the_limit(transduction: Greedy) -> None:
    decoded = transduction.decode(Transducer(), Transducer())
    assert decoded.answers == {
        index: transduction.tokenizers["target"].encode(str(sample["source"])[:6])
        for index, sample in enumerate(transduction.samples)
    }
    assert (decoded.differing, decoded.count) == (
        0,
        sum(min(len(answer) + 1, 6) for answer in decoded.answers.values()),
    )


def test_one_wrong_decision_counts_once_in_agreement_and_once_in_errors(transduction: Greedy) -> None:
    agreement, errors = measure_quality(Transducer(stutters_at=2), Transducer(), transduction)
    long_enough = sum(len(str(sample["source"])) > 2 for sample in transduction.samples)
    assert agreement.loss == pytest.approx(long_enough / agreement.count)
    assert (errors.measure, errors.fp32, errors.limit) == ("token error rate", 0, 0.01)
    assert errors.quantized == pytest.approx(long_enough / errors.count)


@pytest.mark.parametrize("known", [{}, {"targets": []}, {"targets": "abc"}])
def test_without_right_answers_the_cost_cannot_be_told(transduction: Greedy, known: dict[str, object]) -> None:
    bare = [{"source": sample["source"], **known} for sample in transduction.samples]
    greedy = Greedy(transduction.manifest, bare, transduction.tokenizers)
    with pytest.raises(RunError, match=r"samples\.jsonl: targets: expected"):
        measure_quality(Transducer(), Transducer(), greedy)


class Chooser:
    """A tagger whose emissions are made from the ids of the words: tag = id modulo 3, except for one word."""

    def __init__(self, wrong_about: int | None = None) -> None:
        self.pools: dict[str, Floats] = {}
        self.wrong_about = wrong_about

    def allocate(self, num_slots: int, num_rows: int) -> None: ...

    def run(self, kind: GraphKind, feeds: Feeds) -> dict[str, Array]:
        tags = (feeds["words"] + (feeds["words"] == self.wrong_about)) % 3
        return {"emissions": np.where(tags[..., None] == np.arange(3), 1, 0).astype(np.float32)}


def tagging(manifest: Manifest, *tags: list[str]) -> Greedy:
    words = Tokenizer("none", Vocabulary(("<pad>", "<unk>", "<s>", "</s>", "the", "cat", "sat"), 4))
    tokenizers = {
        "words": words,
        "characters": TOKENIZERS["tokens"],
        "tags": Tokenizer("none", Vocabulary(("X", "Y", "Z"), 0)),
    }
    # By id: "the" 4 -> Y, "cat" 5 -> Z, "sat" 6 -> X; of six right tags the model knows five, and one is new to it.
    sentences = (["the", "cat", "sat"], ["cat"], ["sat", "cat"])
    samples = [{"words": words, "tags": right} for words, right in zip(sentences, tags, strict=True)]
    changed = manifest.model_copy(update={"task": "tagger", "states": ()})
    return Greedy(changed, samples, tokenizers, lambda emissions, _: emissions.argmax(-1))


def test_a_taggers_quality_is_its_agreement_and_its_accuracy(manifest: Manifest) -> None:
    greedy = tagging(manifest, ["Y", "Z", "X"], ["Z"], ["X", "NEW"])
    agreement, accuracy = measure_quality(Chooser(wrong_about=6), Chooser(), greedy)
    assert agreement.count == 6 and agreement.loss == pytest.approx(2 / 6)
    assert accuracy.fp32 == pytest.approx(5 / 6) and accuracy.quantized == pytest.approx(3 / 6)
    assert accuracy.count == 6 and accuracy.loss == pytest.approx(2 / 6) and not accuracy.passed


def test_a_sentence_with_fewer_tags_than_words_is_a_clear_error(manifest: Manifest) -> None:
    with pytest.raises(RunError, match=r"samples\.jsonl: tags: expected 2, one a word, got 1"):
        measure_quality(Chooser(), Chooser(), tagging(manifest, ["Y", "Z", "X"], ["Z"], ["X"]))


def test_the_best_token_is_the_first_of_the_best_few() -> None:
    assert best({"top_tokens": np.array([[4, 2], [0, 1]])}).tolist() == [4, 0]
    assert best({"log_probs": np.array([[0.0, 1.0], [2.0, 2.0]])}).tolist() == [1, 0]


def test_memory_rows_never_meet_and_padding_goes_to_scratch_and_comes_from_zero() -> None:
    write, read = memory_rows(np.array([3, 1, 2]))
    assert write.shape == read.shape == (3, 3)
    assert (write[1, 1:] == 1).all() and (read[1, 1:] == 0).all() and write[2, 2] == 1
    real = write[write > 1]
    assert len(set(real.tolist())) == 6 and (real == read[read > 0]).all()


def test_sentences_are_spelt_and_padded() -> None:
    tokenizers = {
        "words": Tokenizer("none", Vocabulary(("<pad>", "<unk>", "<s>", "</s>", "the", "cat"), 4), lowercase=True),
        "characters": Tokenizer("characters", Vocabulary(("<pad>", "<unk>", "<s>", "</s>", "T", "h", "e"), 4)),
    }
    (batch,) = tagger_batches([{"words": ["cat"]}, {"words": ["The", "x"]}], tokenizers)
    assert batch.samples == [1, 0] and batch.lengths.tolist() == [2, 1]
    assert batch.feeds["words"].tolist() == [[4, 1], [5, 0]]
    assert batch.feeds["characters"].tolist() == [[[4, 5, 6], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]]]
    assert batch.feeds["word_lengths"].tolist() == [[3, 1], [3, 1]]


@pytest.mark.parametrize("sample", [{}, {"text": 3}, {"text": ""}])
def test_a_sample_that_is_no_input_is_a_clear_error(sample: dict[str, object]) -> None:
    with pytest.raises(RunError, match=r"samples\.jsonl: text"):
        list(text_batches([{"text": "abc"}, sample], "text", TOKENIZERS["tokens"]))


@pytest.mark.parametrize("sample", [{}, {"words": "the cat"}, {"words": []}])
def test_a_sentence_that_is_none_is_a_clear_error(sample: dict[str, object]) -> None:
    with pytest.raises(RunError, match=r"samples\.jsonl: words"):
        list(tagger_batches([sample], {"words": TOKENIZERS["tokens"], "characters": TOKENIZERS["tokens"]}))
