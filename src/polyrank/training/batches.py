"""Which examples make up each step, and the parts of similar length in which a step is computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from polyrank.config import TrainingConfig
from polyrank.core.seeds import numpy_generator

PART = 12
"""The most examples that a CPU computes at a time. A step's gradient is the sum over its parts, so parts change what is
padded and nothing else; accelerators, which want large operations, compute more at a time. Of 4, 8, 12, 16 and 32,
models of 3 to 6 layers of 128 to 768 were fastest at 8 to 12."""
TOKENS = 16_384
"""The most tokens of a client, padding included, that an accelerator computes at a time. An H100 is busy with far fewer
(`width_h100` in docs/speed.md), so larger operations gain nothing; a decoder of 16 layers of 2048 in bfloat16 kept
1.3 MB for each there, which makes 21 GB. A step of 16 texts of 512 tokens is half of it and computed as a whole."""


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


@dataclass(frozen=True)
class Limit:
    """What of a client's step is computed at a time.

    Args:
        examples: at most so many.
        tokens: so many at most, padding included, but always one example; None: any number.
    """

    examples: int
    tokens: int | None = None

    def fits(self, examples: int, longest: int) -> bool:
        """Whether so many examples, padded to the longest of them, are few enough."""
        if examples > self.examples:
            return False
        return self.tokens is None or examples == 1 or examples * longest <= self.tokens


def limit(options: TrainingConfig, device: torch.device) -> Limit:
    """What is computed at a time on a device.

    A full batch makes parts of even sizes: as many as ``accumulate`` asks for, and on a CPU as many as `PART` takes.
    Accelerators are bounded by `TOKENS` instead. It depends on nothing but the client: its dropout masks are drawn part
    by part.
    """
    on_cpu = device.type == "cpu"
    count = max(options.accumulate, -(-options.batch_size // PART) if on_cpu else 1)
    return Limit(-(-options.batch_size // count), None if on_cpu else TOKENS)


def parts(batch: np.ndarray, lengths: np.ndarray, most: Limit) -> list[np.ndarray]:
    """A batch cut into parts, the longest examples first, each part as large as it may be; the last one may be short.

    Args:
        batch: indices of examples.
        lengths: tokens of every example of the client.
        most: that a part may have.
    """
    ordered = batch[np.argsort(-lengths[batch], kind="stable")]
    found: list[np.ndarray] = []
    start = 0
    for end in range(1, len(ordered) + 1):
        if end == len(ordered) or not most.fits(end + 1 - start, int(lengths[ordered[start]])):
            found.append(ordered[start:end])
            start = end
    return found
