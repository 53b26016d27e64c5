from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polyrank.training.batches import BUCKET, epoch, plan, steps_per_epoch

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=120).map(np.array)


def batches(lengths: np.ndarray, batch_size: int, seed: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in plan(lengths, batch_size, 1, seed, seed)]


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


def test_every_epoch_has_an_order_of_its_own():
    lengths = np.arange(1, 65)
    both = [batch.tolist() for batch in plan(lengths, 4, 2, 0, 0)]
    assert len(both) == 32
    assert both[:16] != both[16:]


def test_clients_of_a_round_are_long_together():
    """With the same cohort seed the k-th batch has the same place in its bucket, whatever else is drawn."""
    lengths = np.arange(1, 65)
    first, second = (plan(lengths, 8, 1, seed, 5) for seed in (0, 1))
    assert [b.min() for b in first] == [b.min() for b in second]
    assert [b.min() for b in first] != [b.min() for b in plan(lengths, 8, 1, 0, 6)]


def test_an_epoch_is_lazy_and_complete():
    """`epoch` by hand, with generators of one's own."""
    own, shared = np.random.default_rng(0), np.random.default_rng(0)
    assert sorted(i for batch in epoch(np.arange(1, 10), 4, own, shared) for i in batch) == list(range(9))


def test_little_is_padded():
    """Lengths 1 to 64 in batches of 8 are one bucket: each has 8 lengths in a row and pads 0 + 1 + ... + 7 = 28."""
    lengths = np.random.default_rng(3).permutation(np.arange(1, 65))
    assert [int((lengths[b].max() - lengths[b]).sum()) for b in batches(lengths, 8)] == [28] * 8
