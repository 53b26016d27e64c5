"""Clients of short and of long texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyrank.core.errors import ConfigError
from polyrank.data.dataset import TextDataset
from polyrank.data.partitions.base import Partition, named, required


@dataclass(frozen=True)
class ByLength:
    """The shortest texts to the first client, and so on; sizes differ by one at most.

    Args:
        mixed: share of the texts that are dealt at random instead, 0 to 1.

    Raises:
        ConfigError: ``mixed`` is out of range.
    """

    mixed: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 <= self.mixed <= 1:
            raise ConfigError(f"partition by-length, option mixed: found {self.mixed}; expected a share from 0 to 1")

    def __call__(self, dataset: TextDataset, clients: int | None, generator: np.random.Generator) -> Partition:
        """The partition; texts of one length stay in the order of the file."""
        count = required(clients, len(dataset))
        order = np.argsort([len(text) for text in dataset.texts], kind="stable")
        drawn = np.sort(generator.permutation(len(order))[: round(self.mixed * len(order))])
        order[drawn] = order[generator.permutation(drawn)]
        return named(np.array_split(order, count))
