"""The CRF against enumeration of every tag sequence."""

import itertools

import pytest
import torch
from torch import Tensor

from models.crf import LinearChainCrf


def _crf(num_tags: int, seed: int) -> LinearChainCrf:
    torch.manual_seed(seed)
    crf = LinearChainCrf(num_tags)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.normal_()
    return crf


def _score(crf: LinearChainCrf, emissions: Tensor, tags: tuple[int, ...]) -> Tensor:
    score = crf.start[tags[0]] + crf.end[tags[-1]]
    score = score + sum(emissions[t, tag] for t, tag in enumerate(tags))
    return score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(tags))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_tags", [1, 2, 4])
def test_likelihood_and_best_path_match_enumeration(num_tags: int, seed: int) -> None:
    crf = _crf(num_tags, seed)
    lengths = torch.tensor([4, 1, 3, 2])
    emissions = torch.randn(4, 5, num_tags) * 2  # one position more than the longest
    tags = torch.randint(num_tags, (4, 5))
    likelihood = crf.log_likelihood(emissions, tags, lengths)
    paths, scores = crf.viterbi(emissions, lengths)
    for row, length in enumerate(lengths.tolist()):
        every = list(itertools.product(range(num_tags), repeat=length))
        enumerated = torch.stack([_score(crf, emissions[row], path) for path in every])
        given = _score(crf, emissions[row], tuple(tags[row, :length].tolist()))
        torch.testing.assert_close(likelihood[row], given - torch.logsumexp(enumerated, 0), atol=1e-5, rtol=0)
        assert tuple(paths[row, :length].tolist()) == every[int(enumerated.argmax())]
        assert paths[row, length:].tolist() == [0] * (5 - length)
        torch.testing.assert_close(scores[row], enumerated.max())


def test_training_raises_the_likelihood_of_the_given_tags() -> None:
    crf = _crf(3, seed=0)
    emissions, tags, lengths = torch.zeros(2, 4, 3), torch.tensor([[0, 1, 2, 0], [0, 1, 0, 0]]), torch.tensor([4, 2])
    optimiser = torch.optim.SGD(crf.parameters(), lr=0.5)
    before = crf.log_likelihood(emissions, tags, lengths).sum()
    for _ in range(30):
        optimiser.zero_grad()
        (-crf.log_likelihood(emissions, tags, lengths).sum()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert crf.log_likelihood(emissions, tags, lengths).sum() > before + 1
    assert crf.viterbi(emissions, lengths)[0].tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
