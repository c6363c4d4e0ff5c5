"""Batches: all examples once, within the limits, in an order that can be asked for again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.batching import BucketedBatches
from models.data.errors import DataError
from models.data.ragged import Ragged
from models.data.tracks import Tracks

PAD, BOS, EOS = 0, 2, 3


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=200), st.integers(30, 90), st.integers(1, 9), st.integers(0, 3)
)
def test_every_example_is_in_one_batch_within_the_limits(
    lengths: list[int], max_tokens: int, max_rows: int, epoch: int
) -> None:
    batches = BucketedBatches(np.array(lengths), max_tokens, max_rows, seed=1)
    for order in (batches.epoch(epoch), batches.in_order()):
        assert sorted(i for batch in order for i in batch.tolist()) == list(range(len(lengths)))
        for batch in order:
            assert len(batch) <= max_rows
            assert len(batch) * max(lengths[i] for i in batch) <= max_tokens


def test_the_order_follows_from_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 20, 500)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in BucketedBatches(lengths, 60, 20, seed).epoch(epoch)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_like_lengths_are_together() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 5000)
    batches = BucketedBatches(lengths, 1000, 500, seed=1).epoch(0)
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert padded < 1.1 * lengths.sum()
    # Yet not in order of length.
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest != sorted(longest)


def test_an_example_over_the_limit_is_refused() -> None:
    with pytest.raises(DataError, match=r"example 2 does not fit .* expected at most batch.max_tokens = 10 .* got 11"):
        BucketedBatches(np.array([3, 11]), 10, 5, 0)


@given(st.lists(st.lists(st.integers(1, 99), max_size=6), min_size=1, max_size=12), st.data())
def test_ragged_rows_are_padded_like_lists(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
    ragged = Ragged.of(rows)
    width = max(1, *(len(rows[i]) for i in chosen))
    assert ragged.padded(np.array(chosen), fill=-1).tolist() == [
        rows[i] + [-1] * (width - len(rows[i])) for i in chosen
    ]
    assert [ragged.row(i).tolist() for i in range(len(ragged))] == rows


@given(st.lists(st.integers(3, 9), min_size=1, max_size=60), st.integers(1, 7), st.integers(1, 9))
def test_every_token_of_a_stream_is_predicted_once_from_what_precedes_it(
    tokens: list[int], tracks: int, chunk: int
) -> None:
    laid = Tracks.of(np.array(tokens, np.int32), tracks, chunk, PAD, BOS, EOS)
    chunks = [laid[i] for i in range(len(laid))]
    assert [c.first for c in chunks] == [True] + [False] * (len(chunks) - 1)
    assert all(c.targets.shape[1] <= chunk for c in chunks)
    inputs = np.concatenate([c.inputs for c in chunks], axis=1)
    targets = np.concatenate([c.targets for c in chunks], axis=1)
    assert targets.ravel()[: len(tokens)].tolist() == tokens
    assert not targets.ravel()[len(tokens) :].any()
    for read, wanted in zip(inputs.tolist(), targets.tolist(), strict=True):
        before = [BOS, *(BOS if token == EOS else token for token in wanted[:-1])]
        assert read == before
