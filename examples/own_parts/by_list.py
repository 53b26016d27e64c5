"""Ranks from an inventory: a file says what each client can train."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyrank.core.errors import ConfigError
from polyrank.ranks.policy import RankPolicy


@dataclass(frozen=True)
class ByList(RankPolicy):
    """The rank that a csv with the columns ``client`` and ``rank`` names, one of ``ranks.levels``.

    Args:
        file: the csv.

    Raises (where ranks are given out):
        ConfigError: the file cannot be read, a client is not in it, or its rank is no level.
    """

    file: str = "inventory.csv"

    def start(self, clients: Sequence[str], groups: Mapping[str, str], seed: int) -> dict[str, int]:  # noqa: ARG002
        """The ranks before anything was trained."""
        try:
            with Path(self.file).open(newline="", encoding="utf-8") as file:
                known = {row["client"]: int(row["rank"]) for row in csv.DictReader(file)}
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{self.file}: {error}; expected a csv with the columns client and rank") from None
        for client in clients:
            if client not in known:
                raise ConfigError(f"{self.file} has no client {client}; add a line with its rank")
            if known[client] not in self.config.levels:
                raise ConfigError(
                    f"{self.file}: client {client} has rank {known[client]}; expected one of {self.config.levels}, or "
                    "another ranks.levels"
                )
        return {client: known[client] for client in clients}
