"""Shrinkage: every row moves towards its owners' mean as far as the owners' agreement warrants."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polyrank.adapter import Adapter, Factors
from polyrank.aggregation.method import Aggregate, Method, Partial, method
from polyrank.aggregation.row_mean import RowMean, Rows
from polyrank.aggregation.updates import part, taken, together
from polyrank.lowrank import wide
from polyrank.state import ClientUpdate, ServerState


@method(
    "shrinkage",
    paper="",
    averages="A and B, every row over its owners, moved less where owners disagree or are few",
    exact="no",
    linear=True,
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

    def start(self, server: ServerState) -> ShrunkMean:
        """An empty accumulator."""
        return ShrunkMean(server, self.min_owners)


class ShrunkMean:
    """Sums of the rows, of the squares of their changes, and of the squared weights: three adapters, at most."""

    def __init__(self, server: ServerState, min_owners: int) -> None:
        self._before = server.adapter
        zeros = server.adapter.map(lambda tensor: torch.zeros_like(tensor, dtype=torch.float64))
        empty = ServerState(0, Adapter(zeros.modules, {}), {}, {})
        exact = replace(server, adapter=server.adapter.map(lambda tensor: tensor.to(wide(tensor.dtype))))
        self._means = RowMean(exact, Rows.owners_mean, min_owners=min_owners)  # not rounded before it is compared
        self._squares = RowMean(empty, Rows.owners_mean)
        self._weights = {n: torch.zeros(3, f.rank, dtype=torch.float64) for n, f in server.adapter.modules.items()}

    def add(self, update: ClientUpdate) -> None:
        """Fold one update in.

        Raises:
            AdapterError: as `polyrank.aggregation.updates.check_update`; nothing has been added then.
        """
        self._means.add(update)
        if update.weight == 0:
            return
        changes = {name: self._squared(name, factors) for name, factors in update.adapter.modules.items()}
        self._squares.add(ClientUpdate(update.client, Adapter(changes, {}), update.weight))
        for name, factors in changes.items():
            own = torch.tensor([update.weight, update.weight**2, 1.0], dtype=torch.float64)
            self._weights[name][:, : factors.rank] += own[:, None]

    def _squared(self, name: str, factors: Factors) -> Factors:
        """The squares of a client's change of each entry, at the global scale."""
        before = self._before.modules[name].prefix(factors.rank)
        own = Factors(factors.a.double(), factors.b.double(), factors.scale).rescaled(before.scale)
        a, b = own.a - before.a.double(), own.b - before.b.double()
        return Factors(a.square(), b.square(), before.scale)

    def merge(self, other: ShrunkMean) -> None:
        """Fold in what another accumulator of the same round has seen."""
        self._means.merge(other._means)
        self._squares.merge(other._squares)
        for name in self._weights:
            self._weights[name] += other._weights[name]

    def dump(self) -> Partial:
        """See `polyrank.aggregation.method.Portable`."""
        weights = Partial({}, self._weights)
        return together({"means": self._means.dump(), "squares": self._squares.dump(), "weights": weights})

    def restore(self, partial: Partial) -> None:
        """As `polyrank.aggregation.method.Portable`."""
        self._means.restore(part(partial, "means"))
        self._squares.restore(part(partial, "squares"))
        for name, weights in self._weights.items():
            weights += taken(part(partial, "weights"), name, weights.shape, weights.dtype)  # noqa: PLW2901  # in place

    def finish(self) -> Aggregate:
        """The new global adapter."""
        result, squares = self._means.finish(), self._squares.finish().adapter
        modules = {
            name: self._shrunk(self._before.modules[name], mean, squares.modules[name], self._weights[name])
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
