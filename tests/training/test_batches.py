from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyrank.config import TrainingConfig
from polyrank.training.batches import PART, TOKENS, Limit, limit, parts, plan, steps_per_epoch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@given(st.integers(1, 120), st.integers(1, 20), st.integers(1, 3), st.integers(0, 5))
def test_every_example_comes_once_an_epoch(examples: int, batch_size: int, epochs: int, seed: int):
    found = plan(examples, batch_size, epochs, seed)
    steps = steps_per_epoch(examples, batch_size)
    assert len(found) == epochs * steps
    for start in range(0, len(found), steps):
        epoch = [batch.tolist() for batch in found[start : start + steps]]
        assert sorted(i for batch in epoch for i in batch) == list(range(examples))
        assert [len(batch) for batch in epoch[:-1]] == [batch_size] * (steps - 1)
    again = plan(examples, batch_size, epochs, seed)
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = (np.concatenate(plan(64, 8, 2, seed)).tolist() for seed in (0, 1))
    assert first[:64] != first[64:]
    assert first != second


LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(np.array)


@given(LENGTHS, st.integers(1, 9), st.none() | st.integers(1, 300), st.integers(0, 5))
def test_parts_are_the_batch_from_long_to_short(lengths: np.ndarray, size: int, tokens: int | None, seed: int):
    """Every part is within the limit, and one more example would not be."""
    batch = np.random.default_rng(seed).permutation(len(lengths))[: max(len(lengths) // 2, 1)]
    found = parts(batch, lengths, Limit(size, tokens))
    together = np.concatenate(found)
    assert sorted(together.tolist()) == sorted(batch.tolist())
    assert (np.diff(lengths[together]) <= 0).all()
    for number, part in enumerate(found):
        longest = int(lengths[part].max())
        assert 0 < len(part) <= size
        assert tokens is None or len(part) == 1 or len(part) * longest <= tokens
        if number < len(found) - 1:
            assert len(part) == size or (tokens is not None and (len(part) + 1) * longest > tokens)


def test_without_a_limit_of_tokens_parts_have_one_size():
    """11 examples by 4."""
    batch, lengths = np.arange(11), np.arange(20, 31)
    assert [part.tolist() for part in parts(batch, lengths, Limit(4))] == [[10, 9, 8, 7], [6, 5, 4, 3], [2, 1, 0]]


def test_a_limit_of_tokens_by_hand():
    """40 tokens: one of 50 (any one example is allowed), 2 of 20, 4 of at most 9; 3 examples at most would cut that."""
    batch, lengths = np.arange(7), np.array([9, 20, 50, 1, 19, 8, 7])
    assert [part.tolist() for part in parts(batch, lengths, Limit(9, 40))] == [[2], [1, 4], [0, 5, 6, 3]]
    assert [part.tolist() for part in parts(batch, lengths, Limit(3, 40))] == [[2], [1, 4], [0, 5, 6], [3]]


@given(st.integers(1, 200))
def test_a_cpu_computes_a_batch_in_as_few_even_parts_as_the_limit_allows(batch_size: int):
    most = limit(TrainingConfig(batch_size=batch_size), CPU)
    assert most.examples <= PART
    assert most.tokens is None
    sizes = [len(part) for part in parts(np.arange(batch_size), np.ones(batch_size, dtype=int), most)]
    assert len(sizes) == -(-batch_size // PART)


def test_what_is_computed_at_a_time():
    """A step's size, in how many parts it is asked for, and what a CPU and an accelerator make of it."""

    def of(batch_size: int, accumulate: int, device: torch.device) -> int:
        return limit(TrainingConfig(batch_size=batch_size, accumulate=accumulate), device).examples

    assert [of(16, parts, CPU) for parts in (1, 2, 3, 5, 16)] == [8, 8, 6, 4, 1]
    assert [of(16, parts, GPU) for parts in (1, 2, 3, 5, 16)] == [16, 8, 6, 4, 1]
    assert (of(4, 1, CPU), of(64, 1, GPU)) == (4, 64)
    assert limit(TrainingConfig(), GPU).tokens == TOKENS >= 16 * 512
