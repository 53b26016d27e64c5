"""Clients of equal size whose label proportions are Dirichlet distributed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyrank.data.dataset import TextDataset
from polyrank.data.partitions.base import Partition, even_sizes, named, positive, required
from polyrank.data.partitions.deck import Deck


@dataclass(frozen=True)
class Dirichlet:
    """Every client draws label proportions ``p_k ~ Dir(alpha * L * prior)`` and examples to match.

    The prior is the data's own label distribution over the L labels that occur, so for balanced labels this is the
    symmetric ``Dir(alpha, ..., alpha)``. The expected share of a label is its prior; the variance is
    ``prior (1 - prior) / (alpha L + 1)``: small `alpha` gives clients of few labels, large `alpha` clients that are
    like the whole.

    After Hsu, Qi and Brown 2019, https://arxiv.org/abs/1909.06335, whose alpha is L times ours. Not the split of
    Yurochkin et al. 2019 (https://arxiv.org/abs/1905.12022), which draws for every label how it is spread over clients:
    there sizes vary wildly and small ones are redrawn; here sizes are equal, up to one, by construction. What is lost:
    examples are not put back, so when everything is handed out the clients that are served last get what remains
    instead of what they drew. They are served in random order; `size`, examples per client, below the full share makes
    the effect small.
    """

    alpha: float = 0.1
    size: int | None = None

    def __post_init__(self) -> None:
        positive("alpha", self.alpha)
        positive("size", self.size, whole=True)

    def __call__(self, dataset: TextDataset, clients: int | None, generator: np.random.Generator) -> Partition:
        """The partition."""
        labels = dataset.kinds("partition dirichlet")
        sizes = even_sizes(len(dataset), required(clients, len(dataset)), self.size, generator)
        prior = dataset.label_counts() / len(dataset)
        deck = Deck(labels, len(prior), generator)
        parts = [np.empty(0, np.int64)] * len(sizes)
        for client in generator.permutation(len(sizes)):
            parts[client] = deck.deal(int(sizes[client]), draw_proportions(self.alpha, prior, generator))
        return named(parts)


def draw_proportions(alpha: float, prior: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One client's label proportions, ``Dir(alpha * L * prior)``; labels of prior zero get zero."""
    present = prior > 0
    proportions = np.zeros(len(prior))
    proportions[present] = generator.dirichlet(alpha * present.sum() * prior[present])
    return proportions
