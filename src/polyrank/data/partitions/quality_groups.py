"""A few clients with balanced data among many with skewed data."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from polyrank.data.dataset import TextDataset
from polyrank.data.partitions.base import Partition, even_sizes, named, positive, required, share, some_of
from polyrank.data.partitions.deck import Deck
from polyrank.data.partitions.dirichlet import draw_proportions

logger = logging.getLogger(__name__)

BALANCED, SKEWED = "balanced", "skewed"


@dataclass(frozen=True)
class QualityGroups:
    """The share `balanced_share` of the clients has nearly balanced labels, the others have Dirichlet-skewed ones.

    Balanced clients draw ``p_k ~ Dir(balanced_alpha, ..., balanced_alpha)`` over the L labels that occur; skewed ones
    ``p_k ~ Dir(alpha * L * prior)`` as in `Dirichlet`. The number of balanced clients is rounded half up, at least
    one if the share is above zero. Which ones they are is drawn; `Partition.groups` tells "balanced" from "skewed".
    Sizes are equal up to one, or `size`. Balanced clients are served first, so that no label has run out; if one does
    (a rare label), a warning says so. What remains at the end goes to the skewed clients that are served last.

    The setting of Byun and Lee 2024, https://arxiv.org/abs/2406.17477: 100 clients, 10 % of them balanced. Its
    Dirichlet values are not known to us; 0.1 and 100 are our choices.
    """

    balanced_share: float = 0.1
    alpha: float = 0.1
    balanced_alpha: float = 100.0
    size: int | None = None

    def __post_init__(self) -> None:
        positive("alpha", self.alpha)
        positive("balanced_alpha", self.balanced_alpha)
        positive("size", self.size, whole=True)
        share("balanced_share", self.balanced_share)

    def __call__(self, dataset: TextDataset, clients: int | None, generator: np.random.Generator) -> Partition:
        """The partition, with groups."""
        labels = dataset.kinds("partition quality-groups")
        count = required(clients, len(dataset))
        sizes = even_sizes(len(dataset), count, self.size, generator)
        prior = dataset.label_counts() / len(dataset)
        uniform = (prior > 0) / np.count_nonzero(prior)
        n_balanced = some_of(count, self.balanced_share)

        deck = Deck(labels, len(prior), generator)
        parts = [np.empty(0, np.int64)] * count
        groups = [SKEWED] * count
        for place, client in enumerate(generator.permutation(count)):
            balanced = place < n_balanced
            alpha, centre = (self.balanced_alpha, uniform) if balanced else (self.alpha, prior)
            parts[client] = deck.deal(int(sizes[client]), draw_proportions(alpha, centre, generator))
            groups[client] = BALANCED if balanced else SKEWED
            if place + 1 == n_balanced < count:
                _warn_of_rare_labels(dataset, deck)
        return named(parts, groups)


def _warn_of_rare_labels(dataset: TextDataset, deck: Deck) -> None:
    gone = np.flatnonzero((deck.remaining == 0) & (dataset.label_counts() > 0))
    if len(gone):
        logger.warning(
            "the balanced clients used up the label(s) %s and are less balanced than asked for; "
            "lower data.balanced_share or raise federation.clients",
            ", ".join(repr(dataset.label_names[label]) for label in gone),
        )
