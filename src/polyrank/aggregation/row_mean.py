"""Kernel 1: the mean of rank indices (rows of A, columns of B) over clients of different ranks.

For rank index ``j``, with ``W`` the weight of all clients and ``W(j)`` that of its owners, the clients that hold it::

    out_j = ( sum_{k owns j} w_k x_{k,j} + (W - W(j)) f_j ) / W

A method is a choice of the fill ``f_j``, or of another combination of the same sums. One pass over the clients; the
memory is that of one adapter (two with donors), whatever the number of clients. Not the mean of the products: the
covariance of the factors is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank.adapter import Adapter, Factors
from polyrank.aggregation.method import Aggregate
from polyrank.errors import AdapterError
from polyrank.lowrank import wide
from polyrank.state import ClientUpdate, ServerState


@dataclass(frozen=True, eq=False)
class Rows:
    """What is known of the rows of one factor once every client is in; rank index first, ``(R, d)``.

    Args:
        total: sum over the owners of ``w_k x_k``.
        owned: ``W(j)``, ``(R, 1)``.
        weight: ``W``.
        previous: the rows of the last global adapter.
        donated: the weighted mean of the donors' rows, beyond their rank the previous ones; None unless donors were
            asked for.
    """

    total: Tensor
    owned: Tensor
    weight: float
    previous: Tensor
    donated: Tensor | None

    def owners_mean(self) -> Tensor:
        """``total / W(j)``; the previous row where nobody owns it."""
        return _mean(self.total, self.owned, self.previous)

    def filled(self, fill: Tensor | float) -> Tensor:
        """The kernel's formula for one fill ``f``."""
        return (self.total + (self.weight - self.owned) * fill) / self.weight


def _mean(total: Tensor, weight: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(weight > 0, total / weight.clamp(min=torch.finfo(weight.dtype).tiny), otherwise)


class _Sums:
    """Weighted sums of one module's rows over its owners."""

    def __init__(self, previous: Factors) -> None:
        dtype = wide(previous.a.dtype)
        self.a = torch.zeros_like(previous.a, dtype=dtype)
        self.b = torch.zeros_like(previous.b, dtype=dtype)
        self.weight = torch.zeros(previous.rank, dtype=torch.float64)
        self.owners = torch.zeros(previous.rank, dtype=torch.int64)

    def add(self, factors: Factors, weight: float) -> None:
        r = factors.rank
        self.a[:r].add_(factors.a, alpha=weight)
        self.b[:, :r].add_(factors.b, alpha=weight)
        self.weight[:r] += weight
        self.owners[:r] += 1

    def merge(self, other: _Sums) -> None:
        self.a += other.a
        self.b += other.b
        self.weight += other.weight
        self.owners += other.owners


class _Module:
    """The sums of one module: over all owners and, when asked for, over the clients of the highest rank seen."""

    def __init__(self, previous: Factors, *, donors: bool) -> None:
        self.previous = previous
        self.all = _Sums(previous)
        self.total = 0.0
        self.donors = _Sums(previous) if donors else None
        self.donor_rank = 0

    def add(self, factors: Factors, weight: float) -> None:
        if weight <= 0:  # a method's own weight can be 0 where the client's is not: no owner and no donor either
            return
        if factors.scale != self.previous.scale:
            # in the dtype of the sums: in half precision B would be rounded once more, or overflow
            wider = Factors(factors.a, factors.b.to(wide(factors.b.dtype)), factors.scale)
            factors = wider.rescaled(self.previous.scale)
        self.all.add(factors, weight)
        self.total += weight
        if self.donors is not None and factors.rank >= self.donor_rank:
            if factors.rank > self.donor_rank:
                self.donors, self.donor_rank = _Sums(self.previous), factors.rank
            self.donors.add(factors, weight)

    def merge(self, other: _Module) -> None:
        self.all.merge(other.all)
        self.total += other.total
        if self.donors is not None and other.donors is not None and other.donor_rank >= self.donor_rank:
            if other.donor_rank > self.donor_rank:
                self.donors, self.donor_rank = _Sums(self.previous), other.donor_rank
            self.donors.merge(other.donors)

    def finish(self, combine: Callable[[Rows], Tensor], min_owners: int) -> Factors:
        if self.total == 0:
            return self.previous
        kept = self.all.owners < min_owners

        def factor(name: str) -> Tensor:
            # columns of B are handled as rows of its transpose
            def rows(tensor: Tensor) -> Tensor:
                return tensor if name == "a" else tensor.T

            total = rows(getattr(self.all, name))
            previous = rows(getattr(self.previous, name)).to(total.dtype)
            donated = None
            if self.donors is not None:
                shares = self.donors.weight.to(total.dtype)[:, None]
                donated = _mean(rows(getattr(self.donors, name)), shares, previous)
            owned = self.all.weight.to(total.dtype)[:, None]
            out = combine(Rows(total, owned, self.total, previous, donated))
            out = torch.where(kept[:, None], previous, out)
            return rows(out).to(getattr(self.previous, name).dtype).contiguous()

        return Factors(factor("a"), factor("b"), self.previous.scale)


class RowMean:
    """The accumulator of every method of kernel 1.

    Factors are brought to the global scale before they are added. A client of weight 0 changes nothing: it is no
    owner and no donor. Dense tensors get the weighted mean over the clients that sent them.

    Args:
        server: the state before the round; its adapter gives R, the scales, the previous rows and the dtypes.
        combine: `Rows` of one factor -> its new rows, ``(R, d)``.
        weigh: update -> ``w_k``; the update's own weight by default.
        weigh_module: update, module -> that module's weight, where it is not ``weigh(update)``.
        donors: whether the rows of the clients of the highest rank present are summed apart.
        min_owners: a row with fewer owners keeps its previous global value.
    """

    def __init__(
        self,
        server: ServerState,
        combine: Callable[[Rows], Tensor],
        *,
        weigh: Callable[[ClientUpdate], float] = lambda update: update.weight,
        weigh_module: Callable[[ClientUpdate, str], float] | None = None,
        donors: bool = False,
        min_owners: int = 1,
    ) -> None:
        self._previous = server.adapter
        self._combine = combine
        self._weigh = weigh
        self._weigh_module = weigh_module
        self._min_owners = min_owners
        self._modules = {n: _Module(f, donors=donors) for n, f in server.adapter.modules.items()}
        self._dense = {n: torch.zeros_like(t, dtype=wide(t.dtype)) for n, t in server.adapter.dense.items()}
        self._dense_weight = dict.fromkeys(server.adapter.dense, 0.0)

    def add(self, update: ClientUpdate) -> None:
        """Fold one update in.

        Raises:
            AdapterError: the weight is negative or not finite, a module or dense tensor is unknown or has another
                shape, or a rank is above the global adapter's; nothing of the update has been added then.
        """
        self._check(update)
        if update.weight == 0:
            return
        weight = self._weigh(update)
        for name, factors in update.adapter.modules.items():
            self._modules[name].add(factors, self._weigh_module(update, name) if self._weigh_module else weight)
        for name, tensor in update.adapter.dense.items():
            self._dense[name].add_(tensor, alpha=weight)
            self._dense_weight[name] += weight

    def _check(self, update: ClientUpdate) -> None:
        if not 0 <= update.weight < math.inf:
            raise AdapterError(f"client {update.client} has the weight {update.weight}; expected a number of 0 or more")
        for name, factors in update.adapter.modules.items():
            known = self._previous.modules.get(name)
            if known is None:
                raise AdapterError(f"client {update.client} sent the module {name!r}, which the global adapter lacks")
            if (factors.d_out, factors.d_in) != (known.d_out, known.d_in):
                raise AdapterError(
                    f"client {update.client} sent a {factors.d_out} x {factors.d_in} update for {name}; "
                    f"the global adapter's is {known.d_out} x {known.d_in}"
                )
            if factors.rank > known.rank:
                raise AdapterError(
                    f"client {update.client} sent rank {factors.rank} for {name}; "
                    f"the global adapter has rank {known.rank}"
                )
        for name, tensor in update.adapter.dense.items():
            expected = self._previous.dense.get(name)
            if expected is None:
                raise AdapterError(f"client {update.client} sent the tensor {name!r}, which the global adapter lacks")
            if tensor.shape != expected.shape:
                raise AdapterError(
                    f"client {update.client} sent {name} as {tuple(tensor.shape)}; expected {tuple(expected.shape)}"
                )

    def merge(self, other: RowMean) -> None:
        """Fold in what another accumulator of the same round has seen."""
        for name, module in self._modules.items():
            module.merge(other._modules[name])
        for name, total in self._dense.items():
            total.add_(other._dense[name])
            self._dense_weight[name] += other._dense_weight[name]

    def finish(self) -> Aggregate:
        """The new global adapter: the previous one's names, ranks, scales and dtypes."""
        modules = {name: module.finish(self._combine, self._min_owners) for name, module in self._modules.items()}
        dense = {
            name: (total / self._dense_weight[name]).to(self._previous.dense[name].dtype)
            if self._dense_weight[name] > 0
            else self._previous.dense[name]
            for name, total in self._dense.items()
        }
        return Aggregate(Adapter(modules, dense))
