"""Ranks drawn at random, in the numbers that the configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyrank.core.seeds import numpy_generator
from polyrank.ranks.levels import level_counts
from polyrank.ranks.policy import RankPolicy, spread


@dataclass(frozen=True)
class Random(RankPolicy):
    """A seeded shuffle of the clients; exactly the configured number gets each level."""

    def start(self, clients: Sequence[str], groups: Mapping[str, str], seed: int) -> dict[str, int]:  # noqa: ARG002  # groups play no part
        """Levels in a drawn order of the clients."""
        names = sorted(clients)
        order = numpy_generator(seed, "ranks").permutation(len(names))
        return spread([names[i] for i in order], level_counts(self.config, len(names)), self.config)
