"""Which examples make up each step: seeded, and of similar length so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polyrank.seeds import numpy_generator

BUCKET = 8
"""Batches per bucket: texts are sorted by length within so many batches, and only there."""


def plan(lengths: np.ndarray, batch_size: int, epochs: int, seed: int, cohort_seed: int) -> list[np.ndarray]:
    """The batches of a client's whole job: ``epochs`` passes of `epoch`.

    Args:
        lengths: tokens per example, ``(n,)``.
        batch_size: examples per batch.
        epochs: passes over the examples.
        seed: the client's own; draws which examples come when.
        cohort_seed: the round's; draws whether a bucket's short or long batches come first, alike for all its clients.
            Clients that are trained in one pass are padded to a common length, so they should be long together.
    """
    own, shared = numpy_generator(seed, "batches"), numpy_generator(cohort_seed, "buckets")
    return [batch for _ in range(epochs) for batch in epoch(lengths, batch_size, own, shared)]


def epoch(
    lengths: np.ndarray, batch_size: int, own: np.random.Generator, shared: np.random.Generator
) -> Iterator[np.ndarray]:
    """One pass over all examples in length buckets: every index once, the last batch of a bucket may be short.

    Args:
        lengths: tokens per example, ``(n,)``.
        batch_size: examples per batch.
        own: draws the order of the examples.
        shared: draws the order of the batches in a bucket.
    """
    order = own.permutation(len(lengths))
    for start in range(0, len(order), BUCKET * batch_size):
        bucket = order[start : start + BUCKET * batch_size]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches = [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
        place = shared.random(BUCKET)[: len(batches)]  # as many draws whatever the client holds
        for i in np.argsort(place):
            yield batches[i]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Number of batches that `epoch` gives."""
    return -(-examples // batch_size)
