"""What a rank policy is: who starts with which rank, and who is moved after one scoring round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from polyrank.config import RanksConfig


class RankPolicy(Protocol):
    """A frozen dataclass; ranks are plain dicts from client name to rank."""

    scores: ClassVar[bool]
    """Whether clients are scored once before the first round (see `assign`)."""

    def start(self, clients: Sequence[str], groups: Mapping[str, str], seed: int) -> dict[str, int]:
        """The ranks before anything was trained."""

    def assign(self, ranks: Mapping[str, int], losses: Mapping[str, float]) -> dict[str, int]:
        """The ranks after scoring, from each client's validation loss; only called where ``scores`` is true."""


def spread(clients: Sequence[str], counts: Sequence[int], config: RanksConfig) -> dict[str, int]:
    """Give the levels out in the order of ``clients``, the highest level first."""
    ranks: dict[str, int] = {}
    todo = iter(clients)
    for count, level in sorted(zip(counts, config.levels, strict=True), key=lambda pair: -pair[1]):
        ranks.update((next(todo), level) for _ in range(count))
    return ranks
