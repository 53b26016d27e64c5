from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyrank.training.batches import PART, part_size, parts, plan, steps_per_epoch


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


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60).map(np.array), st.integers(1, 9), st.integers(0, 5))
def test_parts_are_the_batch_from_long_to_short(lengths: np.ndarray, size: int, seed: int):
    batch = np.random.default_rng(seed).permutation(len(lengths))[: max(len(lengths) // 2, 1)]
    found = parts(batch, lengths, size)
    together = np.concatenate(found)
    assert sorted(together.tolist()) == sorted(batch.tolist())
    assert (np.diff(lengths[together]) <= 0).all()
    assert [len(part) for part in found[:-1]] == [size] * (len(found) - 1)
    assert 0 < len(found[-1]) <= size


@given(st.integers(1, 200))
def test_a_cpu_computes_a_batch_in_as_few_even_parts_as_the_limit_allows(batch_size: int):
    size = part_size(batch_size, torch.device("cpu"))
    assert size <= PART
    sizes = [len(part) for part in parts(np.arange(batch_size), np.ones(batch_size, dtype=int), size)]
    assert len(sizes) == -(-batch_size // PART)


def test_accelerators_compute_a_step_as_a_whole():
    assert part_size(16, torch.device("cpu")) == 8
    assert part_size(4, torch.device("cpu")) == 4
    assert part_size(32, torch.device("cuda")) == 32
