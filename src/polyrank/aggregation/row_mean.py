"""Kernel 1: the mean of rank indices (rows of A, columns of B) over clients of different ranks.

For rank index ``j``, with ``W`` the weight of all clients and ``W(j)`` that of its owners, the clients that hold it::

    out_j = ( sum_{k owns j} w_k x_{k,j} + (W - W(j)) f_j ) / W

A method is a choice of the fill ``f_j``, or of another combination of the same sums. One pass over the clients; the
memory is that of one adapter (less than two with donors), whatever the number of clients. Not the mean of the
products: the covariance of the factors is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from polyrank.adapter import Adapter, Factors
from polyrank.aggregation.method import Aggregate, Partial
from polyrank.aggregation.row_sums import RowSums
from polyrank.aggregation.updates import (
    DenseMean,
    check_update,
    dump_sums,
    part,
    restore_sums,
    together,
    weight_of,
)
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
        partner: the other factor's rows in the last global adapter.
        donated: the weighted mean of the donors' rows, beyond their rank the previous ones; None unless donors were
            asked for.
    """

    total: Tensor
    owned: Tensor
    weight: float
    previous: Tensor
    partner: Tensor
    donated: Tensor | None

    def owners_mean(self) -> Tensor:
        """``total / W(j)``; the previous row where nobody owns it."""
        return _mean(self.total, self.owned, self.previous)

    def filled(self, fill: Tensor | float) -> Tensor:
        """The kernel's formula for one fill ``f``."""
        return (self.total + (self.weight - self.owned) * fill) / self.weight


def _mean(total: Tensor, weight: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(weight > 0, total / weight.clamp(min=torch.finfo(weight.dtype).tiny), otherwise)


class _Module:
    """The sums of one module: of all clients or, when asked for, apart for those of the highest rank seen, the donors.

    The sums of the others are only as wide as the widest of them, so that both together stay below two adapters.
    """

    def __init__(self, previous: Factors, *, donors: bool) -> None:
        self.previous = previous
        self.total = 0.0
        self.donors = RowSums(previous) if donors else None
        self.donor_rank = 0
        self.others = RowSums(previous.prefix(0) if donors else previous)

    def add(self, factors: Factors, weight: float) -> None:
        if weight <= 0:  # a method's own weight can be 0 where the client's is not: no owner and no donor either
            return
        if factors.scale != self.previous.scale:
            # in the dtype of the sums: in half precision B would be rounded once more, or overflow
            wider = Factors(factors.a, factors.b.to(wide(factors.b.dtype)), factors.scale)
            factors = wider.rescaled(self.previous.scale)
        self._sums_of(factors.rank).add(factors, weight)
        self.total += weight

    def merge(self, other: _Module) -> None:
        if other.donors is not None and other.donor_rank > 0:
            self._sums_of(other.donor_rank).merge(other.donors)
        if other.others.rank > 0:
            self._sums_of(other.others.rank).merge(other.others)
        self.total += other.total

    def dump(self, which: str) -> Partial:
        parts = {"others": self.others.dump(which)}
        if self.donors is not None:
            parts["donors"] = self.donors.dump(which)
        whole = together(parts)
        return Partial({**whole.about, "total": self.total, "donor_rank": self.donor_rank}, whole.tensors)

    def restore(self, partial: Partial, which: str) -> None:
        rank, others = partial.about.get("donor_rank"), part(partial, "others")
        if not isinstance(rank, int) or not 0 <= rank <= self.previous.rank or (rank > 0 and self.donors is None):
            raise AdapterError(f"the sums have donors of rank {rank!r}; expected those of this method")
        if self.donors is not None:
            self.donor_rank = rank
            self.donors.restore(part(partial, "donors"), which)
            width = others.about.get("rank")
            self._widen_others(min(width, self.previous.rank) if isinstance(width, int) else 0)
        self.others.restore(others, which)
        self.total += weight_of(partial.about, "total")

    def _sums_of(self, rank: int) -> RowSums:
        """Where clients of this rank belong; above the donors so far, those become others."""
        if self.donors is None:
            return self.others
        if rank > self.donor_rank:
            self._widen_others(self.donor_rank).merge(self.donors)
            self.donors.clear()
            self.donor_rank = rank
        return self.donors if rank == self.donor_rank else self._widen_others(rank)

    def _widen_others(self, rank: int) -> RowSums:
        if rank > self.others.rank:
            wider = RowSums(self.previous.prefix(rank))
            wider.merge(self.others)
            self.others = wider
        return self.others

    def finish(self, combine: Callable[[Rows], Tensor], min_owners: int, which: str) -> Factors:
        if self.total == 0:
            return self.previous
        every = self.others
        if self.donors is not None:
            every = RowSums(self.previous)
            every.merge(self.others)
            every.merge(self.donors)
        kept = every.owners < min_owners

        def factor(name: str) -> Tensor:
            # columns of B are handled as rows of its transpose
            def rows(tensor: Tensor) -> Tensor:
                return tensor if name == "a" else tensor.T

            if name not in which:
                return getattr(self.previous, name)  # type: ignore[no-any-return]  # a or b of Factors

            total = rows(getattr(every, name))
            previous = rows(getattr(self.previous, name)).to(total.dtype)
            donated = None
            if self.donors is not None:
                shares = self.donors.weight.to(total.dtype)[:, None]
                donated = _mean(rows(getattr(self.donors, name)), shares, previous)
            owned = every.weight.to(total.dtype)[:, None]
            partner = self.previous.b.T if name == "a" else self.previous.a
            out = combine(Rows(total, owned, self.total, previous, partner, donated))
            out = torch.where(kept[:, None], previous, out)
            result = getattr(self.donors or self.others, name).copy_(rows(out))  # the sums' memory, not more
            return result.to(getattr(self.previous, name).dtype).contiguous()  # type: ignore[no-any-return]

        return Factors(factor("a"), factor("b"), self.previous.scale)


def owners_mean_of(previous: Factors, terms: Sequence[tuple[float, Factors]]) -> Factors:
    """Owners' mean of one module's factors, for methods that have them all: ``(weight, factors)`` of each client."""
    module = _Module(previous, donors=False)
    for weight, factors in terms:
        module.add(factors, weight)
    return module.finish(Rows.owners_mean, 1, "ab")


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
        prepare: changes an update before it is added (an alignment).
        factors: which factors are averaged; the other one keeps its previous global value.
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
        prepare: Callable[[ClientUpdate], ClientUpdate] = lambda update: update,
        factors: Literal["a", "b", "ab"] = "ab",
    ) -> None:
        self._previous = server.adapter
        self._base_change = server.base_change
        self._prepare = prepare
        self._factors = factors
        self._combine = combine
        self._weigh = weigh
        self._weigh_module = weigh_module
        self._min_owners = min_owners
        self._modules = {n: _Module(f, donors=donors) for n, f in server.adapter.modules.items()}
        self._dense = DenseMean(server.adapter)

    def add(self, update: ClientUpdate) -> None:
        """Fold one update in.

        Raises:
            AdapterError: as `check_update`; nothing of the update has been added then.
        """
        check_update(update, self._previous)
        if update.weight == 0:
            return
        weight = self._weigh(update)
        update = self._prepare(update)
        for name, factors in update.adapter.modules.items():
            self._modules[name].add(factors, self._weigh_module(update, name) if self._weigh_module else weight)
        self._dense.add(update, weight)

    def merge(self, other: RowMean) -> None:
        """Fold in what another accumulator of the same round has seen."""
        for name, module in self._modules.items():
            module.merge(other._modules[name])
        self._dense.merge(other._dense)

    def dump(self) -> Partial:
        """See `polyrank.aggregation.method.Portable`; of the factors that are averaged, the rows that somebody owns."""
        modules = {name: module.dump(self._factors) for name, module in self._modules.items() if module.total > 0}
        return dump_sums(modules, self._dense)

    def restore(self, partial: Partial) -> None:
        """As `polyrank.aggregation.method.Portable`."""

        def module(name: str, own: Partial) -> None:
            self._modules[name].restore(own, self._factors)

        restore_sums(partial, self._modules, module, self._dense)

    def finish(self) -> Aggregate:
        """The new global adapter: the previous one's names, ranks, scales and dtypes."""
        modules = {
            # each module's sums make room for the next one's result
            name: self._modules.pop(name).finish(self._combine, self._min_owners, self._factors)
            for name in list(self._modules)
        }
        return Aggregate(Adapter(modules, self._dense.finish()), self._base_change)
