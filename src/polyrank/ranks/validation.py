"""The seed paper's policy: the clients that learned best from one local round get the high rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyrank.ranks.levels import level_counts
from polyrank.ranks.policy import RankPolicy, spread


@dataclass(frozen=True)
class Validation(RankPolicy):
    """Everyone trains once at the lowest level; the best share by validation loss is promoted.

    The loss is that of the client's own model on a label-balanced set that the server holds. Source: Byun and Lee,
    NAACL 2025. More than two levels, and breaking ties by name, are our generalisation: best clients get the highest
    level, the next ones the level below.
    """

    @property
    def scores(self) -> bool:
        return True

    def start(self, clients: Sequence[str], groups: Mapping[str, str], seed: int) -> dict[str, int]:  # noqa: ARG002  # nothing is drawn
        """The lowest level for everyone."""
        level_counts(self.config, len(clients))  # a wrong count is an error before the work, not after
        return dict.fromkeys(sorted(clients), self.config.levels[0])

    def assign(self, ranks: Mapping[str, int], losses: Mapping[str, float]) -> dict[str, int]:
        """Levels by ascending loss; a client without a finite loss comes last."""

        def order(client: str) -> tuple[float, str]:
            loss = losses.get(client, math.inf)
            return (loss if math.isfinite(loss) else math.inf, client)

        return spread(sorted(ranks, key=order), level_counts(self.config, len(ranks)), self.config)
