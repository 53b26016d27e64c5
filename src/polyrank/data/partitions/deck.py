"""Dealing examples by label, without putting any back."""

from __future__ import annotations

import numpy as np


class Deck:
    """The examples that no client has yet, by label, each label shuffled once."""

    def __init__(self, labels: np.ndarray, n_labels: int, generator: np.random.Generator) -> None:
        self._generator = generator
        self._piles = [generator.permutation(np.flatnonzero(labels == label)) for label in range(n_labels)]
        self._dealt = np.zeros(n_labels, dtype=np.int64)

    @property
    def remaining(self) -> np.ndarray:
        """Examples left of every label, int64, shape (labels,)."""
        return np.array([len(pile) for pile in self._piles], dtype=np.int64) - self._dealt

    def deal(self, size: int, proportions: np.ndarray) -> np.ndarray:
        """Indices of `size` examples with these label proportions, as far as the labels last.

        When a label runs out, its share falls to the client's other labels in their proportions (Hsu et al. 2019 do the
        same); when those are gone too, to what is left of the data.

        Raises:
            ValueError: fewer than `size` examples remain.
        """
        if size > self.remaining.sum():
            raise ValueError(f"{size} examples asked for, {self.remaining.sum()} remain")
        counts = np.zeros_like(self._dealt)
        while (need := size - int(counts.sum())) > 0:
            room = self.remaining - counts
            wish = np.where(room > 0, proportions, 0.0)
            wish = wish if wish.sum() > 0 else room.astype(np.float64)
            counts += np.minimum(_round(need, wish / wish.sum(), self._generator), room)
        start = self._dealt
        self._dealt = start + counts
        return np.concatenate([pile[a : a + n] for pile, a, n in zip(self._piles, start, counts, strict=True)])


def _round(total: int, shares: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Whole numbers of sum `total` and mean ``total * shares``: floors, and the rest at random by fraction."""
    exact = total * shares
    numbers: np.ndarray = np.floor(exact).astype(np.int64)
    fractions = exact - numbers
    rest = total - int(numbers.sum())
    if rest > 0:
        numbers += generator.multinomial(rest, fractions / fractions.sum())
    return numbers
