"""Shrinkage: every row moves towards its owners' mean as far as the owners' agreement warrants."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from polyrank.adapter import Adapter, Factors
from polyrank.aggregation.method import Aggregate, Method, Partial, method
from polyrank.aggregation.updates import DenseMean, check_update, dump_sums, restore_sums, taken
from polyrank.errors import AdapterError
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
    or more, whether they may move or not. So a row of one owner moves less than one of many, but further where its
    change is large beside what clients differ by: `tempered` with the exponent chosen by the data. The form is the
    positive-part estimator of James and Stein (1961); using it here, and taking one ``v`` for all rows of a factor, is
    ours; no paper.

    Args:
        min_owners: a row with fewer owners keeps its previous value.
    """

    min_owners: int = 1

    def start(self, server: ServerState) -> ShrunkMean:
        """An empty accumulator."""
        return ShrunkMean(server, self.min_owners)


class ShrunkMean:
    """What is known of every row of every module once the clients are in: an adapter in float64."""

    def __init__(self, server: ServerState, min_owners: int) -> None:
        self._before, self._base_change = server.adapter, server.base_change
        self._min_owners = min_owners
        self._modules = {name: _Owners.none(factors) for name, factors in server.adapter.modules.items()}
        self._dense = DenseMean(server.adapter)

    def add(self, update: ClientUpdate) -> None:
        """Fold one update in.

        Raises:
            AdapterError: as `polyrank.aggregation.updates.check_update`; nothing has been added then.
        """
        check_update(update, self._before)
        if update.weight == 0:
            return
        for name, factors in update.adapter.modules.items():
            exact = factors.map(Tensor.double).rescaled(self._before.modules[name].scale)
            self._modules[name].merge(_Owners.one(exact, update.weight))
        self._dense.add(update, update.weight)

    def merge(self, other: ShrunkMean) -> None:
        """Fold in what another accumulator of the same round has seen."""
        for name, owners in self._modules.items():
            owners.merge(other._modules[name].present())
        self._dense.merge(other._dense)

    def dump(self) -> Partial:
        """See `polyrank.aggregation.method.Portable`; the rows that somebody owns."""
        present = {name: owners.present() for name, owners in self._modules.items()}
        return dump_sums({name: owners.dump() for name, owners in present.items() if owners.rank}, self._dense)

    def restore(self, partial: Partial) -> None:
        """As `polyrank.aggregation.method.Portable`."""

        def module(name: str, own: Partial) -> None:
            self._modules[name].merge(_Owners.restored(own, self._before.modules[name]))

        restore_sums(partial, self._modules, module, self._dense)

    def finish(self) -> Aggregate:
        """The new global adapter."""
        modules = {
            name: owners.shrunk(self._before.modules[name], self._min_owners) for name, owners in self._modules.items()
        }
        return Aggregate(Adapter(modules, self._dense.finish()), self._base_change)


@dataclass(frozen=True, eq=False)
class _Owners:
    """The owners of every rank index of one module: their mean, and how far they are apart; in float64.

    What is kept are shares of the weight and deviations from the mean, merged by the formulas of Chan, Golub and
    LeVeque (1979). With plain sums, ``1 - sum of squared shares`` and ``mean of squares - square of the mean`` are
    nothing but rounding where one weight dwarfs the rest.

    Args:
        a: the mean of A, ``(R, d_in)``.
        b: the mean of B, ``(d_out, R)``.
        weight: ``W(j)``, ``(R,)``.
        count: how many owners, ``(R,)``.
        squares: ``S_j``, the sum of the squared shares, ``(R,)``.
        pairs: ``1 - S_j``, the sum over all pairs of the product of their shares, ``(R,)``.
        apart: weighted mean square of the owners' deviations from their mean, of A and of B, ``(2, R)``.
    """

    a: Tensor
    b: Tensor
    weight: Tensor
    count: Tensor
    squares: Tensor
    pairs: Tensor
    apart: Tensor

    @classmethod
    def none(cls, like: Factors) -> _Owners:
        """Nobody owns any of these rank indices."""
        zeros = like.map(lambda tensor: torch.zeros_like(tensor, dtype=torch.float64))
        rows = torch.zeros(6, like.rank, dtype=torch.float64)
        return cls(zeros.a, zeros.b, rows[0], rows[1], rows[2], rows[3], rows[4:])

    @classmethod
    def one(cls, factors: Factors, weight: float) -> _Owners:
        """A single client owns all of them."""
        one = torch.ones(factors.rank, dtype=torch.float64)
        return cls(factors.a, factors.b, weight * one, one, one, 0 * one, 0 * torch.stack([one, one]))

    @property
    def rank(self) -> int:
        """How many rank indices there are."""
        return self.a.shape[0]

    def first(self, rank: int) -> _Owners:
        """Those of the first rank indices (views)."""
        rows = (self.weight[:rank], self.count[:rank], self.squares[:rank], self.pairs[:rank], self.apart[:, :rank])
        return _Owners(self.a[:rank], self.b[:, :rank], *rows)

    def present(self) -> _Owners:
        """Those of the rank indices that somebody owns; who owns one owns all before it."""
        return self.first(int(self.count.count_nonzero()))

    def merge(self, other: _Owners) -> None:
        """Take in other owners of the first rank indices, at least one of each; in place."""
        mine = self.first(other.rank)
        total = mine.weight + other.weight
        p, q = mine.weight / total, other.weight / total
        gap = Factors(other.a - mine.a, other.b - mine.b)
        between = torch.stack([gap.a.square().mean(dim=1), gap.b.square().mean(dim=0)])
        mine.apart.mul_(p).add_(q * other.apart).add_(p * q * between)
        mine.squares.mul_(p * p).add_(q * q * other.squares)
        mine.pairs.mul_(p * p).add_(q * q * other.pairs).add_(2 * p * q)
        mine.a.add_(q[:, None] * gap.a)
        mine.b.add_(q * gap.b)
        mine.count.add_(other.count)
        mine.weight.copy_(total)

    def dump(self) -> Partial:
        """See `polyrank.aggregation.method.Portable`."""
        return Partial({"rank": self.rank}, {field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def restored(cls, partial: Partial, like: Factors) -> _Owners:
        """What `dump` made.

        Raises:
            AdapterError: it is not of such owners.
        """
        rank = partial.about.get("rank")
        if not isinstance(rank, int) or not 0 <= rank <= like.rank:
            raise AdapterError(f"the sums have the rank {rank!r}; expected 0 to {like.rank}")
        shapes: dict[str, tuple[int, ...]] = {field.name: (rank,) for field in fields(cls)}
        shapes |= {"a": (rank, like.d_in), "b": (like.d_out, rank), "apart": (2, rank)}
        found = cls(**{name: taken(partial, name, shape, torch.float64) for name, shape in shapes.items()})
        rows = (found.weight, found.count - 1, found.squares, found.pairs, found.apart)
        if any(bool((row < 0).any()) for row in rows) or not bool(found.weight.all()):
            raise AdapterError("the sums have rows of negative weight, or without an owner; expected neither")
        return found

    def shrunk(self, before: Factors, min_owners: int) -> Factors:
        """The new factors: every row as far from its previous value towards the owners' mean as they agree."""
        a = self._towards(before.a, self.a, self.apart[0], min_owners)
        b = self._towards(before.b.T, self.b.T, self.apart[1], min_owners).T.contiguous()
        return Factors(a, b, before.scale)

    def _towards(self, before: Tensor, mean: Tensor, apart: Tensor, min_owners: int) -> Tensor:
        sums = (mean * self.weight[:, None]).to(wide(before.dtype))  # an overflow of other methods is one here too
        change = mean.masked_fill(~torch.isfinite(sums), math.inf) - before.double()
        size = change.square().mean(dim=1)
        several = self.count > 1
        freedom = self.pairs[several].sum()
        variance = apart[several].sum() / freedom if freedom > 0 else torch.zeros_like(freedom)
        moves = (size > 0) & (self.count >= max(min_owners, 1))
        theta = torch.where(moves, 1 - variance * self.squares / size, 0.0).clamp(min=0)
        return (before.double() + theta[:, None] * change).to(before.dtype)
