"""Which examples make up each step, and the parts of similar length in which a step is computed."""

from __future__ import annotations

import numpy as np
import torch

from polyrank.core.seeds import numpy_generator

PART = 12
"""The most examples that a CPU computes at a time. A step's gradient is the sum over its parts, so parts change what is
padded and nothing else; accelerators, which want large operations, compute a step as a whole. Of 4, 8, 12, 16 and 32,
models of 3 to 6 layers of 128 to 768 were fastest at 8 to 12."""


def plan(examples: int, batch_size: int, epochs: int, seed: int) -> list[np.ndarray]:
    """The batches of a client's whole job: in every epoch each example once, shuffled; the last batch may be short.

    Lengths play no part: batches of similar length would pad less, but a client with few batches would then see its
    short texts first or last, and learn less.
    """
    generator = numpy_generator(seed, "batches")
    batches = []
    for _ in range(epochs):
        order = generator.permutation(examples)
        batches += [order[i : i + batch_size] for i in range(0, examples, batch_size)]
    return batches


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Number of batches in an epoch."""
    return -(-examples // batch_size)


def part_size(batch_size: int, device: torch.device) -> int:
    """Examples that are computed at a time: on a CPU a full batch makes parts of even sizes, of at most `PART`."""
    return -(-batch_size // -(-batch_size // PART)) if device.type == "cpu" else batch_size


def parts(batch: np.ndarray, lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """A batch cut into parts of ``size`` examples, the longest examples first; the last part may be short.

    Args:
        batch: indices of examples.
        lengths: tokens of every example of the client.
        size: examples per part.
    """
    ordered = batch[np.argsort(-lengths[batch], kind="stable")]
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]
