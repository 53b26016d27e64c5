"""Ranks that participants declare themselves, before those that a policy gives to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from polyrank.adapter import Adapter
from polyrank.ranks.policy import RankPolicy
from polyrank.state import ClientUpdate


@dataclass(frozen=True)
class Declared(RankPolicy):
    """What a participant can afford is its own to say; whoever says nothing gets its rank from the policy.

    Args:
        inner: the configured policy.
        ranks: client -> rank, of those that declare one.
    """

    inner: RankPolicy = field(kw_only=True)
    ranks: Mapping[str, int] = field(kw_only=True)

    @property
    def scores(self) -> bool:
        """As the configured policy."""
        return self.inner.scores

    @property
    def prunes(self) -> bool:
        """As the configured policy."""
        return self.inner.prunes

    def shrunk(self, rank: int) -> int:
        """As the configured policy."""
        return self.inner.shrunk(rank)

    def start(self, clients: Sequence[str], groups: Mapping[str, str], seed: int) -> dict[str, int]:
        """The declared ranks, and the policy's of the others."""
        others = [client for client in clients if client not in self.ranks]
        given = self.inner.start(others, groups, seed) if others else {}
        return {client: self.ranks.get(client) or given[client] for client in clients}

    def assign(self, ranks: Mapping[str, int], losses: Mapping[str, float]) -> dict[str, int]:
        """The policy's, but for what is declared."""
        return {client: self.ranks.get(client, rank) for client, rank in self.inner.assign(ranks, losses).items()}

    def adapt(
        self, ranks: Mapping[str, int], started: Mapping[str, Adapter], updates: Sequence[ClientUpdate]
    ) -> dict[str, int]:
        """As the configured policy."""
        return self.inner.adapt(ranks, started, updates)
