"""Ranks that participants declare themselves, before those that a policy gives to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError
from polyrank.core.state import ClientUpdate
from polyrank.ranks.policy import RankPolicy


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
        """See `RankPolicy`; the configured policy decides."""
        return self.inner.scores

    @property
    def prunes(self) -> bool:
        """See `RankPolicy`; the configured policy decides."""
        return self.inner.prunes

    def shrunk(self, rank: int) -> int:
        """See `RankPolicy`; the configured policy decides."""
        return self.inner.shrunk(rank)

    def start(self, clients: Sequence[str], groups: Mapping[str, str], seed: int) -> dict[str, int]:
        """The declared ranks, and the policy's of the others: places and counts are theirs alone.

        Raises:
            ConfigError: of the policy; how many declare a rank is said where that matters.
        """
        others = [client for client in clients if client not in self.ranks]
        if not others:
            return {client: self.ranks[client] for client in clients}
        own = len(clients) - len(others)
        by_name = {name: rank for name, rank in self.inner.config.by_name.items() if name not in self.ranks}
        inner = replace(self.inner, config=self.inner.config.model_copy(update={"by_name": by_name}))
        try:
            given = inner.start(others, groups, seed)
        except ConfigError as error:
            more = f" ({own} of {len(clients)} clients declare a rank of their own and take no place)" if own else ""
            raise ConfigError(f"{error}{more}") from None
        return {client: self.ranks.get(client) or given[client] for client in clients}

    def assign(self, ranks: Mapping[str, int], losses: Mapping[str, float]) -> dict[str, int]:
        """The policy's of those that declare none; the others take no place."""
        others = {client: rank for client, rank in ranks.items() if client not in self.ranks}
        given = self.inner.assign(others, losses) if others else {}
        return {client: self.ranks.get(client) or given[client] for client in ranks}

    def adapt(
        self, ranks: Mapping[str, int], started: Mapping[str, Adapter], updates: Sequence[ClientUpdate]
    ) -> dict[str, int]:
        """See `RankPolicy`; the configured policy decides."""
        return self.inner.adapt(ranks, started, updates)
