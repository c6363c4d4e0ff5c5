"""Greedy and beam search against exhaustive enumeration and a reference written from the definition."""

import itertools
from collections.abc import Callable

import pytest
import torch

from models.beam import Beam, Hypothesis, length_penalty
from models.config import EncoderDecoderConfig
from models.encoder_decoder import EncoderDecoder
from models.search import beam_search, greedy_search
from models.symbols import BOS_ID, EOS_ID

Scorer = Callable[[tuple[int, ...]], list[float]]


def _model(seed: int, target_size: int = 6, sharpness: float = 8.0, end_bias: float = 0.0) -> EncoderDecoder:
    torch.manual_seed(seed)
    config = EncoderDecoderConfig(source_dim=5, target_dim=4, hidden=6, attention_dim=5, decoder_layers=2)
    model = EncoderDecoder(config, source_size=9, target_size=target_size).eval()
    with torch.no_grad():
        model.output.weight.mul_(sharpness)
        model.target_embedding.weight.mul_(sharpness)
        model.output.bias[EOS_ID] += end_bias
    return model


def _sources(seed: int, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, 9, (count, 5), generator=generator), torch.tensor([5, 1, 3, 2, 4][:count])


def _scorer(model: EncoderDecoder, source: torch.Tensor, length: int) -> Scorer:
    """Log-probabilities of the next token after a prefix, from teacher forcing: no state, no batch."""

    def score(prefix: tuple[int, ...]) -> list[float]:
        with torch.inference_mode():
            logits = model(source[None, :length], torch.tensor([length]), torch.tensor([[BOS_ID, *prefix]]))
        log_probs = torch.log_softmax(logits[0, -1], dim=-1)
        return [float("-inf") if i in (0, 2) else float(x) for i, x in enumerate(log_probs)]

    return score


def _exhaustive(
    score: Scorer, max_tokens: int, vocabulary: list[int], alpha: float
) -> list[tuple[tuple[int, ...], float]]:
    found = []
    for n in range(max_tokens + 1):
        for tokens in itertools.product([t for t in vocabulary if t != EOS_ID], repeat=n):
            log_prob = sum(score(tokens[:i])[tokens[i]] for i in range(n))
            if n < max_tokens:
                log_prob += score(tokens)[EOS_ID]
            length = n if n == max_tokens else n + 1
            found.append((tokens, log_prob / ((5 + length) / 6) ** alpha))
    return sorted(found, key=lambda pair: -pair[1])


def _reference(
    score: Scorer, beam: int, alpha: float, max_tokens: int, vocabulary_size: int
) -> list[tuple[tuple[int, ...], float]]:
    """Beam search from its definition: prefixes in, no bookkeeping of states."""
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    done: list[tuple[tuple[int, ...], float]] = []
    for _ in range(max_tokens):
        pool = []
        for parent, (prefix, total) in enumerate(live):
            ranked = sorted(enumerate(score(prefix)), key=lambda pair: -pair[1])[: min(2 * beam, vocabulary_size)]
            pool += [(-(total + s), parent, rank, prefix, t) for rank, (t, s) in enumerate(ranked) if s > -1e8]
        pool.sort(key=lambda c: c[:3])
        ending = [(c[3], -c[0] / ((5 + len(c[3]) + 1) / 6) ** alpha) for c in pool[:beam] if c[4] == EOS_ID]
        done += ending
        live = [((*c[3], c[4]), -c[0]) for c in pool if c[4] != EOS_ID][:beam]
        if not live or (beam == 1 and ending):
            return sorted(done, key=lambda d: -d[1])
        if len(done) >= beam:
            worst = sorted(d[1] for d in done)[-beam:][0]
            if live[0][1] / ((5 + max_tokens + 1) / 6) ** alpha <= worst:
                return sorted(done, key=lambda d: -d[1])
    done += [(prefix, total / ((5 + len(prefix)) / 6) ** alpha) for prefix, total in live]
    return sorted(done, key=lambda d: -d[1])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_a_beam_wide_enough_finds_what_enumeration_finds(alpha: float) -> None:
    model = _model(seed=1)
    source, lengths = _sources(seed=2, count=2)
    results = beam_search(model, source, lengths, beam_size=256, max_tokens=3, alpha=alpha, num_best=5)
    for row, result in enumerate(results):
        best = _exhaustive(_scorer(model, source[row], int(lengths[row])), 3, [1, 3, 4, 5], alpha)[:5]
        assert [h.tokens for h in result] == [tokens for tokens, _ in best]
        assert [h.score for h in result] == pytest.approx([score for _, score in best], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("beam_size", "alpha"), [(1, 0.6), (2, 0.0), (3, 1.0), (5, 0.6)])
def test_narrow_beams_follow_the_definition(seed: int, beam_size: int, alpha: float) -> None:
    model = _model(seed, target_size=9)
    source, lengths = _sources(seed)
    results = beam_search(model, source, lengths, beam_size, max_tokens=6, alpha=alpha, num_best=beam_size)
    for row, result in enumerate(results):
        expected = _reference(_scorer(model, source[row], int(lengths[row])), beam_size, alpha, 6, 9)[:beam_size]
        assert [h.tokens for h in result] == [tokens for tokens, _ in expected]
        assert [h.score for h in result] == pytest.approx([score for _, score in expected], abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    model = _model(seed, target_size=9)
    source, lengths = _sources(seed, count=5)
    greedy = greedy_search(model, source, lengths, max_tokens=6, alpha=0.6)
    beams = beam_search(model, source, lengths, beam_size=1, max_tokens=6, alpha=0.6)
    for hypothesis, (other,) in zip(greedy, beams, strict=True):
        assert (hypothesis.tokens, hypothesis.finish_reason) == (other.tokens, other.finish_reason)
        assert (hypothesis.log_prob, hypothesis.score) == pytest.approx((other.log_prob, other.score), abs=1e-5)


def test_greedy_takes_the_best_token_at_every_step() -> None:
    model = _model(seed=1, target_size=9, end_bias=3.0)
    source, lengths = _sources(seed=3, count=5)
    reasons = set()
    for row, hypothesis in enumerate(greedy_search(model, source, lengths, max_tokens=4)):
        score = _scorer(model, source[row], int(lengths[row]))
        tokens: list[int] = []
        while len(tokens) < 4:
            scores = score(tuple(tokens))
            if (best := scores.index(max(scores))) == EOS_ID:
                break
            tokens.append(best)
        assert hypothesis.tokens == tuple(tokens)
        assert hypothesis.finish_reason == ("end" if len(tokens) < 4 else "length")
        reasons.add(hypothesis.finish_reason)
    assert reasons == {"end", "length"}, "the model of this test must show both"


def test_equal_candidates_keep_the_order_of_parents_then_tokens() -> None:
    beam = Beam(beam_size=2, alpha=0.0, max_tokens=5)
    assert beam.advance([[-1.0, -1.0, -2.0]], [[7, 4, 5]]) == [0, 0]
    assert [tokens for tokens, _ in beam.live] == [(7,), (4,)]
    assert beam.advance([[-1.0, -2.0], [-1.0, -2.0]], [[5, 6], [6, 5]]) == [0, 1]
    assert [tokens for tokens, _ in beam.live] == [(7, 5), (4, 6)]


def test_an_end_symbol_that_ranks_past_the_beam_does_not_finish() -> None:
    beam = Beam(beam_size=2, alpha=0.0, max_tokens=5)
    beam.advance([[-1.0, -1.5, -2.0]], [[4, 5, EOS_ID]])
    assert beam.finished == []
    beam.advance([[-1.0, -1.5], [-9.0, -9.5]], [[4, EOS_ID], [4, 5]])
    assert [h.tokens for h in beam.finished] == [(4,)]


def test_what_can_never_come_next_is_no_candidate() -> None:
    beam = Beam(beam_size=3, alpha=0.0, max_tokens=5)
    assert beam.advance([[-0.5, -1e9, -1e9]], [[4, 0, 2]]) == [0]


def test_ties_between_finished_keep_their_order() -> None:
    beam = Beam(beam_size=1, alpha=0.0, max_tokens=1)
    beam.finished = [Hypothesis((4,), -1.0, -1.0, "end"), Hypothesis((5,), -1.0, -1.0, "end")]
    assert [h.tokens for h in beam.best(2)] == [(4,), (5,)]


@pytest.mark.parametrize(("length", "alpha", "expected"), [(1, 0.6, 1.0), (7, 1.0, 2.0), (7, 0.0, 1.0)])
def test_length_penalty(length: int, alpha: float, expected: float) -> None:
    assert length_penalty(length, alpha) == pytest.approx(expected)


@pytest.mark.parametrize(("beam_size", "alpha", "max_tokens"), [(0, 0.6, 5), (1, -0.1, 5), (1, 0.6, 0)])
def test_impossible_parameters_are_refused(beam_size: int, alpha: float, max_tokens: int) -> None:
    with pytest.raises(ValueError, match="expected at least"):
        Beam(beam_size, alpha, max_tokens)
