"""Multi-Krum, on products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polyrank.aggregation.method import Needs
from polyrank.aggregation.robust.rule import Judged, Rule, check_share, most_hostile
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate


@dataclass(frozen=True)
class Krum(Rule):
    """The ``n - f`` clients whose changes of the products have the nearest neighbours; the others are left out.

    A client's score is the sum of its ``n - f - 2`` smallest squared distances to others, ``|D_i - D_k|_F^2`` with
    ``D_k = s_k B_k A_k - s B A`` of its own rank, over all modules, and the differences of the heads beside.
    Factors are not compared: ``(B Q, Q^-1 A)`` is the same update for every invertible Q, so two clients that agree can
    be far apart in them, and a hostile one near to all. Products never leave their factored form. With fewer than ``2 f
    + 3`` clients nothing is told apart, and every value stays. A client stays or goes as a whole, so a row of a single
    owner is learned where its owner stays. Source: Blanchard et al., NeurIPS 2017 (arXiv 1703.02757); the products,
    and ``n - f`` for their m, are ours.

    Args:
        hostile: share of a round's clients that may be hostile, above 0 and below 0.5; ``f`` is that share of those
            who answered, rounded down, and at least 1.
    """

    hostile: float = 0.3

    name: ClassVar[str] = "krum"
    compares_products: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_share(self.name, self.hostile)

    def judge(self, updates: Sequence[ClientUpdate], before: Adapter) -> Judged:
        count = len(updates)
        hostile = most_hostile(self.hostile, count)
        if count < self.needs(count).clients:
            return Judged((), metrics={"clients_left_out": float(count)})
        apart = distances([update.adapter for update in updates], before)
        apart.fill_diagonal_(torch.inf)
        scores = apart.sort(dim=1).values[:, : count - hostile - 2].sum(dim=1)
        kept = sorted(scores.argsort(stable=True)[: count - hostile].tolist())
        return Judged([updates[i] for i in kept], metrics={"clients_left_out": float(hostile)})

    def needs(self, count: int) -> Needs:
        return Needs(clients=2 * most_hostile(self.hostile, count) + 3)


def distances(adapters: Sequence[Adapter], before: Adapter) -> Tensor:
    """Squared distances of the changes of the products, and of the dense tensors, ``(n, n)`` in float64.

    A module or tensor that a client lacks has not changed there.
    """
    count = len(adapters)
    gram = torch.zeros(count, count, dtype=torch.float64)
    for name, known in before.modules.items():
        gram += _inner([_change(adapter.modules.get(name), known) for adapter in adapters])
    for name, start in before.dense.items():
        every = torch.stack([(adapter.dense.get(name, start) - start).double().flatten() for adapter in adapters])
        gram += every @ every.T
    squares = gram.diagonal()
    return (squares[:, None] + squares[None] - 2 * gram).clamp(min=0)


def _change(factors: Factors | None, before: Factors) -> Factors:
    """``s_k B_k A_k - s B A`` as one product of scale 1, in float64."""
    rank = 0 if factors is None else factors.rank
    start = before.prefix(rank).map(Tensor.double)
    if factors is None:
        return Factors(start.a, start.b)
    return Factors(torch.cat([factors.a, start.a]), torch.cat([factors.scale * factors.b, -start.scale * start.b], 1))


def _inner(products: Sequence[Factors]) -> Tensor:
    """``<B_i A_i, B_k A_k>`` for every pair, ``(n, n)``: ``sum((A_i A_k^T) * (B_i^T B_k))``."""
    every = Factors(torch.cat([p.a for p in products]), torch.cat([p.b for p in products], dim=1))
    of = torch.repeat_interleave(torch.tensor([p.rank for p in products]))
    found = torch.zeros(len(products), len(products), dtype=torch.float64)
    for i, p in enumerate(products):
        found[i].index_add_(0, of, ((p.a @ every.a.T) * (p.b.T @ every.b)).sum(dim=0))
    return found
