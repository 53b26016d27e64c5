"""Rules that replace every row by a centre of its owners' rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polyrank.aggregation.method import Needs
from polyrank.aggregation.robust.rule import Judged, Rule, check_share, most_hostile
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate


@dataclass(frozen=True)
class Centre(Rule):
    """A rule by which every rank index has one value for all its owners, of A and of B apart.

    All ``f`` hostile clients of a round may own the same row, whatever the share of the honest ones that own it: who
    is hostile claims the rank that pays. So a row with fewer than ``2 f + 1`` owners keeps its previous value, and so
    does a dense tensor that fewer clients sent. A dense tensor is one row.

    A row is a row in the coordinates that the clients happen to share, ``(B Q, Q^-1 A)`` is the same update: the
    centre of the factors is no more gauge invariant than their mean.

    Args:
        hostile: share of a round's clients that may be hostile, above 0 and below 0.5; ``f`` is that share of those
            who answered, rounded down, and at least 1.
    """

    hostile: float = 0.3

    def __post_init__(self) -> None:
        check_share(self.name, self.hostile)

    @abstractmethod
    def centre(self, values: Tensor, hostile: int) -> Tensor:
        """The centres of m rows.

        Args:
            values: ``(n, m, d)`` in float64, of n owners.
            hostile: ``f`` of them may hold anything finite; ``n >= 2 f + 1``.

        Returns:
            ``(m, d)``.
        """

    def judge(self, updates: Sequence[ClientUpdate], before: Adapter) -> Judged:
        hostile = most_hostile(self.hostile, len(updates))
        modules, dense = {}, {}
        for name, known in before.modules.items():
            owners = [update.adapter.modules[name] for update in updates if name in update.adapter.modules]
            modules[name] = self._factors(owners, known, hostile)
        for name in before.dense:
            sent = [update.adapter.dense[name] for update in updates if name in update.adapter.dense]
            if len(sent) > 2 * hostile:
                found = self.centre(torch.stack(sent).flatten(1)[:, None], hostile)
                dense[name] = found.reshape(sent[0].shape)
        made = [
            Adapter(
                {name: modules[name].prefix(factors.rank) for name, factors in update.adapter.modules.items()},
                {name: dense[name] for name in update.adapter.dense if name in dense},
            )
            for update in updates
        ]
        judged = [replace(update, adapter=adapter) for update, adapter in zip(updates, made, strict=True)]
        return Judged(judged)

    def needs(self, count: int) -> Needs:
        least = 2 * most_hostile(self.hostile, count) + 1
        return Needs(clients=least, owners=least)

    def _factors(self, owners: Sequence[Factors], before: Factors, hostile: int) -> Factors:
        """The centres of one module's rows; the previous rows where the owners are too few."""
        found = before.map(lambda tensor: tensor.to(torch.float64, copy=True))
        begin = 0
        for end in sorted({factors.rank for factors in owners}):  # between two ranks the owners are the same
            own = [factors for factors in owners if factors.rank >= end]
            if len(own) <= 2 * hostile:
                break  # and those beyond have fewer still
            found.a[begin:end] = self.centre(torch.stack([f.a[begin:end] for f in own]), hostile)
            found.b[:, begin:end] = self.centre(torch.stack([f.b[:, begin:end].T for f in own]), hostile).T
            begin = end
        return found
