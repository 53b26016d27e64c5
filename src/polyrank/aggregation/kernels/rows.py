"""Kernel 1: the mean of rank indices (rows of A, columns of B) over clients of different ranks.

For rank index ``j``, with ``W`` the weight of all clients and ``W(j)`` that of its owners, the clients that hold it::

    out_j = ( sum_{k owns j} w_k x_{k,j} + (W - W(j)) f_j ) / W

A method is a choice of the fill ``f_j``, or of another combination of the same sums. One pass over the clients; the
memory is that of one adapter (at most two with donors), whatever the number of clients. Not the mean of the products:
the covariance of the factors is lost.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polyrank.aggregation.kernels import dense
from polyrank.aggregation.kernels.row_sums import RowSums
from polyrank.aggregation.kernels.updates import check_update
from polyrank.aggregation.method import Aggregate, Kernel, Levels, Method
from polyrank.aggregation.sums import Partial, Sums
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.core.lowrank import wide
from polyrank.core.state import ClientUpdate, ServerState


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
            asked for, and where none of them came.
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

    def tempered(self, gamma: float) -> Tensor:
        """Between the previous rows and the owners' mean, by ``theta_j = (W(j) / W) ** gamma``."""
        theta = (self.owned / self.weight) ** gamma
        return (1 - theta) * self.previous + theta * self.owners_mean()


def _mean(total: Tensor, weight: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(weight > 0, total / weight.clamp(min=torch.finfo(weight.dtype).tiny), otherwise)


class RowMethod(Method):
    """A method on rows: a subclass says what becomes of the sums, and changes what else it does otherwise."""

    @abstractmethod
    def combine(self, rows: Rows) -> Tensor:
        """The new rows of one factor, ``(R, d)``."""

    def weight(self, update: ClientUpdate) -> float:
        """``w_k`` of a client."""
        return update.weight

    def module_weights(self, update: ClientUpdate, weight: float) -> Mapping[str, float]:
        """``w_k`` in each module; ``weight``, its weight as a client, unless a method says otherwise."""
        return dict.fromkeys(update.adapter.modules, weight)

    def least_owners(self) -> int:
        """Owners without whom a row keeps its previous value."""
        return 1

    def factors(self, server: ServerState) -> str:  # noqa: ARG002  # some alternate
        """Which factors are averaged, ``"a"``, ``"b"`` or ``"ab"``; the other one keeps its previous value."""
        return "ab"

    def has_donors(self) -> bool:
        """Whether the rows of the clients of the highest rank that was asked are summed apart."""
        return False

    def check(self, update: ClientUpdate, server: ServerState) -> None:
        """Refuse an update that the method has no sum for.

        Raises:
            AdapterError: the client and its module are named.
        """

    def finish(self, adapter: Adapter, server: ServerState) -> Adapter:  # noqa: ARG002  # some factor anew
        """The new global adapter from the combined rows."""
        return adapter

    def start(self, server: ServerState, levels: Levels) -> RowMean:
        return RowMean(server, levels, self)


@dataclass(frozen=True)
class RareRows(RowMethod):
    """A method on rows with an option for those that few clients own.

    Args:
        min_owners: a row with fewer owners keeps its previous value.
    """

    min_owners: int = field(default=1, kw_only=True)

    def least_owners(self) -> int:
        return self.min_owners


class RowMean(Kernel[Sums]):
    """The kernel of every method on rows.

    Factors are brought to the global scale before they are added. A client of weight 0 changes nothing: it is no
    owner and no donor. Dense tensors get the weighted mean over the clients that sent them.

    Donors are the clients of the highest of ``levels``. The sums of the others are only as wide as the next lower
    level, so that both together stay below two adapters.

    Args:
        server: the state before the round; its adapter gives R, the scales, the previous rows and the dtypes.
        levels: of the clients that were asked.
        method: what it does with the sums.
        least_owners: a row with fewer keeps its previous value, where the method asks for fewer still.
    """

    def __init__(self, server: ServerState, levels: Levels, method: RowMethod, *, least_owners: int = 0) -> None:
        self.server, self.method = server, method
        self._least_owners = max(method.least_owners(), least_owners)
        self._which = method.factors(server)
        self._banks = {
            name: _banks(factors, levels[name] if method.has_donors() else (factors.rank,))
            for name, factors in server.adapter.modules.items()
        }

    def empty(self) -> Sums:
        """For each module a bank of sums for each group of clients."""
        tensors = dense.empty(self.server.adapter)
        for name, factors in self.server.adapter.modules.items():
            tensors[_all(name)] = torch.zeros(1, dtype=torch.float64)
            for bank, rank in self._banks[name].items():
                tensors |= RowSums.empty(factors.prefix(rank), self._which).named(_bank(name, bank))
        return Sums(tensors)

    def check(self, update: ClientUpdate) -> None:
        self.method.check(update, self.server)
        check_update(update, self.server.adapter, chooses=self.method.info.chooses_indices)
        if self.method.has_donors() and update.weight > 0:
            self._check_asked(update)

    def fold(self, sums: Sums, update: ClientUpdate) -> Sums:
        self.check(update)
        if update.weight == 0:
            return sums
        weight = self.method.weight(update)
        ranks = update.adapter.ranks
        indices = self.method.owned(self.server, update)
        for name, own in self.method.module_weights(update, weight).items():
            if own <= 0:  # a method's own weight can be 0 where the client's is not: no owner and no donor either
                continue
            known = self.server.adapter.modules[name]
            scale = known.scale * self.method.scaled_up(ranks[name], known.rank)
            factors = _at_scale(update.adapter.modules[name], scale)
            bank = "donors" if factors.rank == self._banks[name].get("donors") else "others"
            RowSums.of(sums, _bank(name, bank), self._which).add(factors, own, indices.get(name))
            sums.tensors[_all(name)] += own
        dense.add(sums, update, weight)
        return sums

    def received(self, partial: Partial) -> Sums:
        return self.empty().like(partial)

    def conclude(self, sums: Sums) -> Aggregate:
        """An adapter of the previous one's names, ranks, scales and dtypes."""
        # each module's sums make room for the next one's result
        modules = {name: self._module(name, sums) for name in self.server.adapter.modules}
        adapter = Adapter(modules, dense.means(sums, self.server.adapter))
        return Aggregate(self.method.finish(adapter, self.server), self.server.base_change)

    def _check_asked(self, update: ClientUpdate) -> None:
        for name, factors in update.adapter.modules.items():
            others, donors = self._banks[name]["others"], self._banks[name].get("donors", 0)
            if factors.rank > others and factors.rank != donors:
                raise AdapterError(
                    f"client {update.client} sent rank {factors.rank} for {name}; expected {donors} or at most "
                    f"{others}, the ranks of the clients that were asked"
                )

    def _module(self, name: str, sums: Sums) -> Factors:
        previous = self.server.adapter.modules[name]
        banks = {bank: RowSums.taken(sums, _bank(name, bank), self._which) for bank in self._banks[name]}
        weight = float(sums.tensors[_all(name)])
        if weight == 0:
            return previous
        donors, every = banks.get("donors"), banks["others"]
        if donors is not None:
            every = RowSums.empty(previous, self._which)
            for bank in ("others", "donors"):
                every.add_sums(banks[bank])
            if not bool(donors.weight.any()):
                donors = None
        kept = every.owners < self._least_owners
        made = {}
        for factor, into in every.factors.items():
            rows = self._rows(factor, every, weight, previous, donors)
            out = torch.where(kept[:, None], rows.previous, self.method.combine(rows))
            made[factor] = into.copy_(_turned(factor, out)).to(getattr(previous, factor).dtype).contiguous()
        return Factors(made.get("a", previous.a), made.get("b", previous.b), previous.scale)

    @staticmethod
    def _rows(factor: str, every: RowSums, weight: float, previous: Factors, donors: RowSums | None) -> Rows:
        """Columns of B are handled as rows of its transpose."""
        total = _turned(factor, every.factors[factor])
        before = _turned(factor, getattr(previous, factor)).to(total.dtype)
        donated = None
        if donors is not None:
            shares = donors.weight.to(total.dtype)[:, None]
            own = _turned(factor, donors.factors[factor])
            donated = before.clone()
            donated[: len(own)] = _mean(own, shares, before[: len(own)])
        owned = every.weight.to(total.dtype)[:, None]
        partner = previous.b.T if factor == "a" else previous.a
        return Rows(total, owned, weight, before, partner, donated)


def _banks(factors: Factors, levels: Sequence[int]) -> Mapping[str, int]:
    """The groups of clients whose rows are summed apart, and the rank up to which."""
    if len(levels) == 0 or levels[-1] > factors.rank:
        raise AdapterError(f"the ranks that were asked are {list(levels)}; expected some, of at most {factors.rank}")
    if levels[0] == levels[-1] == factors.rank:
        return {"others": factors.rank}
    return {"others": levels[-2] if len(levels) > 1 else 0, "donors": levels[-1]}


def _bank(module: str, bank: str) -> str:
    return f"modules/{module}/{bank}/"


def _all(module: str) -> str:
    return f"modules/{module}/weight"


def _at_scale(factors: Factors, scale: float) -> Factors:
    if factors.scale == scale:
        return factors
    # in the dtype of the sums: in half precision B would be rounded once more, or overflow
    return Factors(factors.a, factors.b.to(wide(factors.b.dtype)), factors.scale).rescaled(scale)


def _turned(factor: str, tensor: Tensor) -> Tensor:
    return tensor if factor == "a" else tensor.T


class _OwnersMean(RowMethod):
    """The plain mean over the owners."""

    def combine(self, rows: Rows) -> Tensor:
        return rows.owners_mean()


def owners_mean_of(previous: Factors, terms: Sequence[tuple[float, Factors]]) -> Factors:
    """Owners' mean of one module's factors, for methods that have them all: ``(weight, factors)`` of each client."""
    kernel = RowMean(ServerState(0, Adapter({"module": previous}), {}, {}), {}, _OwnersMean())
    sums = kernel.empty()
    for weight, factors in terms:
        sums = kernel.fold(sums, ClientUpdate("", Adapter({"module": factors}), weight))
    return kernel.conclude(sums).adapter.modules["module"]
