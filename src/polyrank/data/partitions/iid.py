"""Every client draws from the same distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyrank.data.dataset import TextDataset
from polyrank.data.partitions.base import Partition, even_sizes, named, positive, required


@dataclass(frozen=True)
class Iid:
    """Shuffle all examples and cut them into equal parts, whose sizes differ by one at most.

    `size`: examples per client; without it all examples are handed out.
    """

    size: int | None = None

    def __post_init__(self) -> None:
        positive("size", self.size, whole=True)

    def __call__(self, dataset: TextDataset, clients: int | None, generator: np.random.Generator) -> Partition:
        """The partition."""
        sizes = even_sizes(len(dataset), required(clients, len(dataset)), self.size, generator)
        ends = np.cumsum(sizes)
        order = generator.permutation(len(dataset))
        return named([order[end - size : end] for end, size in zip(ends, sizes, strict=True)])
