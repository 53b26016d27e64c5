"""A few clients with many examples among many with few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyrank.core.errors import DataError
from polyrank.data.dataset import TextDataset
from polyrank.data.partitions.base import Partition, named, positive, required, share, some_of
from polyrank.data.partitions.deck import Deck
from polyrank.data.partitions.dirichlet import draw_proportions

LARGE, SMALL = "large", "small"


@dataclass(frozen=True)
class SizeGroups:
    """The share `large_share` of the clients holds `times` as many examples as each of the others.

    All draw their label proportions as in `Dirichlet`, so that amount alone tells the groups apart. The number of large
    clients is rounded half up, at least one if the share is above zero. Which ones they are is drawn;
    `Partition.groups` tells "large" from "small", so that ``ranks.by_name = {large = 20, small = 5}`` gives ranks by
    amount. A small client has `size` examples, or by default all examples are handed out, sizes up to one. A setting of
    ours: beside quality and chance the third thing that ranks may follow.
    """

    large_share: float = 0.1
    times: int = 8
    alpha: float = 0.1
    size: int | None = None

    def __post_init__(self) -> None:
        positive("alpha", self.alpha)
        positive("size", self.size, whole=True)
        positive("times", self.times, whole=True)
        share("large_share", self.large_share)

    def __call__(self, dataset: TextDataset, clients: int | None, generator: np.random.Generator) -> Partition:
        """The partition, with groups."""
        labels = dataset.kinds("partition size-groups")
        count = required(clients, len(dataset))
        large = some_of(count, self.large_share)
        order = generator.permutation(count)
        groups = np.full(count, SMALL, dtype=object)
        groups[order[:large]] = LARGE
        sizes = self._sizes(len(dataset), groups == LARGE, generator)
        prior = dataset.label_counts() / len(dataset)
        deck = Deck(labels, len(prior), generator)
        parts = [np.empty(0, np.int64)] * count
        for client in order:
            parts[client] = deck.deal(int(sizes[client]), draw_proportions(self.alpha, prior, generator))
        return named(parts, groups.tolist())

    def _sizes(self, examples: int, large: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Examples of each client, int64."""
        shares = np.where(large, self.times, 1)
        if self.size is not None:
            sizes: np.ndarray = self.size * shares
            if sizes.sum() > examples:
                raise DataError(
                    f"{len(shares)} clients with {self.size} examples each, and {int(large.sum())} of them with "
                    f"{self.times} times as many, need {sizes.sum()} training examples, found {examples}: lower the "
                    "size, data.options.times or the number of clients, or leave the size out to hand out everything"
                )
            return sizes
        # one each first, so that nobody has none
        even: np.ndarray = 1 + (examples - len(shares)) * shares // shares.sum()
        rest = examples - int(even.sum())
        even += generator.permutation(len(shares)) < rest
        return even
