"""Shrinkage: every row moves towards its owners' mean as far as the owners' agreement warrants."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polyrank.adapter import Adapter, Factors
from polyrank.aggregation.method import Aggregate, Kernel, Levels, Method, method
from polyrank.aggregation.methods.owner_mean import OwnerMean
from polyrank.aggregation.sums import Partial, Sums, together
from polyrank.lowrank import wide
from polyrank.state import ClientUpdate, ServerState


@method(
    "shrinkage",
    paper="",
    averages="A and B, every row over its owners, moved less where owners disagree or are few",
    exact="no",
    fixed_sums=True,
    merges=False,
)
@dataclass(frozen=True)
class Shrinkage(Method):
    """``out_j = previous_j + theta_j (owners_mean_j - previous_j)``, ``theta_j = max(0, 1 - N_j / C_j)``.

    ``C_j`` is the mean square of the owners' mean change of row j, ``N_j = v sum_k w_k^2 / W(j)^2`` the part of it that
    is the owners' noise, with ``v`` the variance between owners, pooled over the rows of a factor that have two owners
    or more. So a row of one owner moves less than one of many, but further where its change is large beside what
    clients differ by: `tempered` with the exponent chosen by the data. The form is the positive-part estimator of James
    and Stein (1961); using it here, and taking one ``v`` for all rows of a factor, is ours; no paper.

    Args:
        min_owners: a row with fewer owners keeps its previous value.
    """

    min_owners: int = 1

    def start(self, server: ServerState, levels: Levels) -> ShrunkMean:
        return ShrunkMean(server, levels, self.min_owners)


class ShrunkMean(Kernel[Sums]):
    """Sums of the rows, of the squares of their changes, and of the squared weights: three adapters.

    Args:
        server: the state before the round.
        levels: of the clients that were asked.
        min_owners: a row with fewer owners keeps its previous value.
    """

    def __init__(self, server: ServerState, levels: Levels, min_owners: int) -> None:
        self._before = server.adapter
        zeros = server.adapter.map(lambda tensor: torch.zeros_like(tensor, dtype=torch.float64))
        exact = replace(server, adapter=server.adapter.map(lambda tensor: tensor.to(wide(tensor.dtype))))
        self._means = OwnerMean(min_owners).start(exact, levels)  # not rounded before it is compared
        self._squares = OwnerMean().start(ServerState(0, Adapter(zeros.modules, {}), {}, {}), levels)

    def empty(self) -> Sums:
        modules = self._before.modules
        weights = {n: torch.zeros(3, f.rank, dtype=torch.float64) for n, f in modules.items()}
        return together({"means/": self._means.empty(), "squares/": self._squares.empty(), "powers/": Sums(weights)})

    def check(self, update: ClientUpdate) -> None:
        self._means.check(update)

    def fold(self, sums: Sums, update: ClientUpdate) -> Sums:
        self._means.fold(sums.below("means/"), update)
        if update.weight == 0:
            return sums
        changes = {name: self._squared(name, factors) for name, factors in update.adapter.modules.items()}
        own = ClientUpdate(update.client, Adapter(changes, {}), update.weight)
        self._squares.fold(sums.below("squares/"), own)
        powers = torch.tensor([update.weight, update.weight**2, 1.0], dtype=torch.float64)
        for name, factors in changes.items():
            sums.tensors[f"powers/{name}"][:, : factors.rank] += powers[:, None]
        return sums

    def _squared(self, name: str, factors: Factors) -> Factors:
        """The squares of a client's change of each entry, at the global scale."""
        before = self._before.modules[name].prefix(factors.rank)
        own = Factors(factors.a.double(), factors.b.double(), factors.scale).rescaled(before.scale)
        a, b = own.a - before.a.double(), own.b - before.b.double()
        return Factors(a.square(), b.square(), before.scale)

    def received(self, partial: Partial) -> Sums:
        return self.empty().like(partial)

    def conclude(self, sums: Sums) -> Aggregate:
        result = self._means.conclude(sums.below("means/"))
        squares = self._squares.conclude(sums.below("squares/")).adapter
        weights = sums.below("powers/").tensors
        modules = {
            name: self._shrunk(self._before.modules[name], mean, squares.modules[name], weights[name])
            for name, mean in result.adapter.modules.items()
        }
        dense = {name: t.to(self._before.dense[name].dtype) for name, t in result.adapter.dense.items()}
        return Aggregate(Adapter(modules, dense), result.base_change)

    @staticmethod
    def _shrunk(before: Factors, mean: Factors, squares: Factors, weights: Tensor) -> Factors:
        a = _towards(before.a, mean.a, squares.a, weights)
        b = _towards(before.b.T, mean.b.T, squares.b.T, weights).T.contiguous()
        return Factors(a, b, before.scale)


def _towards(before: Tensor, mean: Tensor, squares: Tensor, weights: Tensor) -> Tensor:
    """The rows of one factor.

    Args:
        before: ``(R, d)``.
        mean: the owners' mean.
        squares: the owners' mean of the squares of their changes.
        weights: ``sum_k w_k``, ``sum_k w_k^2`` and the number of the owners, ``(3, R)``.
    """
    total, squared, owners = weights
    change = mean.double() - before.double()
    size = change.square().mean(dim=1)
    share = torch.where(total > 0, squared / total.clamp(min=torch.finfo(torch.float64).tiny).square(), 1.0)
    several = owners > 1
    between = (squares.mean(dim=1) - size).clamp(min=0)[several].sum()  # v (1 - share) in each of these rows
    variance = between / (1 - share[several]).sum() if several.any() else torch.zeros((), dtype=torch.float64)
    theta = torch.where(size > 0, 1 - variance * share / size, 0.0).clamp(min=0)
    return (before.double() + theta[:, None] * change).to(before.dtype)
