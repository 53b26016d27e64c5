"""Ranks by the order of the clients' names, or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from polyrank.core.errors import ConfigError, did_you_mean
from polyrank.ranks.levels import level_counts
from polyrank.ranks.policy import RankPolicy, spread


@dataclass(frozen=True)
class Fixed(RankPolicy):
    """The highest level to the first clients in the order of their names, and so on down.

    ``ranks.by_name`` sets single clients, or all clients of a group of the partition, instead.
    """

    takes_names: ClassVar[bool] = True

    def start(self, clients: Sequence[str], groups: Mapping[str, str], seed: int) -> dict[str, int]:  # noqa: ARG002  # nothing is drawn
        """Levels in the order of the names.

        Raises:
            ConfigError: ``by_name`` names neither a client nor a group; the nearest name is given.
        """
        ranks = spread(sorted(clients), level_counts(self.config, len(clients)), self.config)
        known = set(clients) | set(groups.values())
        for name in self.config.by_name:
            if name not in known:
                raise ConfigError(f"ranks.by_name: no client or group is called {name!r}: {did_you_mean(name, known)}")
        for client in clients:
            group_rank = self.config.by_name.get(groups.get(client, ""), ranks[client])
            ranks[client] = self.config.by_name.get(client, group_rank)
        return ranks
