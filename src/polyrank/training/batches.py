"""Which examples make up each step: seeded, and of similar length so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BUCKET = 8
"""Batches per bucket: texts are sorted by length within so many batches, and only there."""


def epoch(lengths: np.ndarray, batch_size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """One pass over all examples in length buckets: every index once, the last batch of a bucket may be short.

    Args:
        lengths: tokens per example, ``(n,)``.
        batch_size: examples per batch.
        generator: draws the order of the examples, and of the batches in a bucket.
    """
    order = generator.permutation(len(lengths))
    for start in range(0, len(order), BUCKET * batch_size):
        bucket = order[start : start + BUCKET * batch_size]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches = [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
        for i in generator.permutation(len(batches)):
            yield batches[i]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Number of batches that `epoch` gives."""
    return -(-examples // batch_size)
