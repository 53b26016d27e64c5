from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polyrank.training.batches import BUCKET, epoch, steps_per_epoch

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=120).map(np.array)


def batches(lengths: np.ndarray, batch_size: int, seed: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in epoch(lengths, batch_size, np.random.default_rng(seed))]


@given(LENGTHS, st.integers(1, 20), st.integers(0, 5))
def test_every_example_comes_once(lengths: np.ndarray, batch_size: int, seed: int):
    found = batches(lengths, batch_size, seed)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert len(found) == steps_per_epoch(len(lengths), batch_size)
    assert found == batches(lengths, batch_size, seed)


@given(LENGTHS, st.integers(1, 6))
def test_batches_of_a_bucket_do_not_overlap_in_length(lengths: np.ndarray, batch_size: int):
    """In order of their shortest text, no batch of a bucket begins below the longest text of the one before it."""
    found = batches(lengths, batch_size)
    for start in range(0, len(found), BUCKET):
        bucket = sorted((lengths[batch].min(), lengths[batch].max()) for batch in found[start : start + BUCKET])
        assert all(right[0] >= left[1] for left, right in pairwise(bucket))


@given(LENGTHS, st.integers(1, 6))
def test_only_one_batch_is_short(lengths: np.ndarray, batch_size: int):
    sizes = [len(batch) for batch in batches(lengths, batch_size)]
    assert sorted(sizes, reverse=True)[:-1] == [batch_size] * (len(sizes) - 1)


def test_examples_and_batches_are_shuffled():
    """64 texts of lengths 1 to 64 in batches of 8 are one bucket: the same batches each time, in another order."""
    lengths = np.arange(1, 65)
    first, second = batches(lengths, 8, seed=0), batches(lengths, 8, seed=1)
    assert sorted(first) == sorted(second) == [list(range(i, i + 8)) for i in range(0, 64, 8)]
    assert first != second
    assert first != sorted(first)


def test_examples_of_several_buckets_are_shuffled():
    """With batches of 1 a bucket holds 8 of the 64 texts: not always the same."""
    lengths = np.arange(1, 65)
    first, second = batches(lengths, 1, seed=0), batches(lengths, 1, seed=1)
    assert sorted(first[:BUCKET]) != sorted(second[:BUCKET])


def test_an_epoch_goes_on_where_the_last_one_ended():
    """The second epoch draws an order of its own from the same generator."""
    lengths, generator = np.arange(1, 65), np.random.default_rng(0)
    first = [batch.tolist() for batch in epoch(lengths, 4, generator)]
    second = [batch.tolist() for batch in epoch(lengths, 4, generator)]
    assert first != second


def test_little_is_padded():
    """Lengths 1 to 64 in batches of 8 are one bucket: each has 8 lengths in a row and pads 0 + 1 + ... + 7 = 28."""
    lengths = np.random.default_rng(3).permutation(np.arange(1, 65))
    assert [int((lengths[b].max() - lengths[b]).sum()) for b in batches(lengths, 8)] == [28] * 8
