"""What a rank policy is: who starts with which rank, and who is moved later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from polyrank.config import RanksConfig
from polyrank.core.adapter import Adapter
from polyrank.core.state import ClientUpdate


@dataclass(frozen=True)
class RankPolicy(ABC):
    """Ranks are plain dicts from client name to rank; a policy's fields beside ``config`` are its ``ranks.options``."""

    config: RanksConfig

    takes_names: ClassVar[bool] = False
    """Whether ``ranks.by_name`` says something to it."""

    @property
    def scores(self) -> bool:
        """Whether clients are scored on the server's validation set before the first round (see `assign`)."""
        return False

    @property
    def scores_clients(self) -> bool:
        """Whether a run scores its clients: a policy that goes by scores has more than one rank to give."""
        return self.scores and len(self.config.levels) > 1

    @property
    def prunes(self) -> bool:
        """Whether clients train under HetLoRA's regulariser and may shrink (see `shrunk` and `adapt`)."""
        return False

    def shrunk(self, rank: int) -> int:
        """What a client of this rank may shrink to; the rank itself where it may not."""
        return rank

    @abstractmethod
    def start(self, clients: Sequence[str], groups: Mapping[str, str], seed: int) -> dict[str, int]:
        """The ranks before anything was trained."""

    def assign(self, ranks: Mapping[str, int], losses: Mapping[str, float]) -> dict[str, int]:  # noqa: ARG002  # for those that score
        """The ranks after scoring, from each client's validation loss."""
        return dict(ranks)

    def adapt(
        self,
        ranks: Mapping[str, int],
        started: Mapping[str, Adapter],  # noqa: ARG002  # for those that prune
        updates: Sequence[ClientUpdate],  # noqa: ARG002  # for those that prune
    ) -> dict[str, int]:
        """The ranks after a round, from what its clients started from and what they made of it."""
        return dict(ranks)


def spread(clients: Sequence[str], counts: Sequence[int], config: RanksConfig) -> dict[str, int]:
    """Give the levels out in the order of ``clients``, the highest level first."""
    ranks: dict[str, int] = {}
    todo = iter(clients)
    for count, level in sorted(zip(counts, config.levels, strict=True), key=lambda pair: -pair[1]):
        ranks.update((next(todo), level) for _ in range(count))
    return ranks
