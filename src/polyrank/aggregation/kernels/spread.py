"""How far the owners of a row are apart: what `polyrank.aggregation.methods.shrinkage` adds up."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from polyrank.aggregation.sums import Partial, Summed, Sums, taken
from polyrank.core.adapter import Factors
from polyrank.core.errors import AdapterError


@dataclass(frozen=True, eq=False)
class Spread:
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
    def none(cls, like: Factors) -> Spread:
        """Nobody owns any of these rank indices."""
        zeros = like.map(lambda tensor: torch.zeros_like(tensor, dtype=torch.float64))
        rows = torch.zeros(6, like.rank, dtype=torch.float64)
        return cls(zeros.a, zeros.b, rows[0], rows[1], rows[2], rows[3], rows[4:])

    @classmethod
    def one(cls, factors: Factors, weight: float) -> Spread:
        """A single client owns all of them."""
        one = torch.ones(factors.rank, dtype=torch.float64)
        return cls(factors.a, factors.b, weight * one, one, one, 0 * one, 0 * torch.stack([one, one]))

    @property
    def rank(self) -> int:
        """How many rank indices there are."""
        return self.a.shape[0]

    def first(self, rank: int) -> Spread:
        """Those of the first rank indices (views)."""
        rows = (self.weight[:rank], self.count[:rank], self.squares[:rank], self.pairs[:rank], self.apart[:, :rank])
        return Spread(self.a[:rank], self.b[:, :rank], *rows)

    def present(self) -> Spread:
        """Those of the rank indices that somebody owns; who owns one owns all before it."""
        return self.first(int(self.count.count_nonzero()))

    def merge(self, other: Spread) -> None:
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

    def copy(self) -> Spread:
        """A copy in memory of its own."""
        return Spread(*(getattr(self, field.name).clone() for field in fields(self)))

    @classmethod
    def received(cls, partial: Partial, start: str, like: Factors) -> Spread:
        """What `Spreads.partial` made of one module.

        Raises:
            AdapterError: it is not of such owners.
        """
        own = cls.none(like)
        shapes = {field.name: tuple(getattr(own, field.name).shape) for field in fields(cls)}
        found = cls(**{name: taken(partial, start + name, shape, torch.float64) for name, shape in shapes.items()})
        present, rest = found.present(), found.count[found.present().rank :]
        if any(bool((getattr(found, name) < 0).any()) for name in ("weight", "count", "squares", "pairs", "apart")):
            raise AdapterError("the sums have rows of a negative weight or spread; expected 0 or more")
        if bool(rest.any()) or not bool(present.weight.all()) or bool((present.count < 1).any()):
            raise AdapterError("the sums have rows of a weight without an owner, or the other way round")
        return found


@dataclass(frozen=True, eq=False)
class Spreads(Summed):
    """The spread of every module's rows, and the sums of dense tensors.

    Its shape is fixed, but its ``+`` is no sum of numbers: whoever adds must see them.
    """

    modules: dict[str, Spread]
    dense: Sums

    def __add__(self, other: Spreads) -> Spreads:
        whole = Spreads({name: spread.copy() for name, spread in self.modules.items()}, self.dense + other.dense)
        for name, spread in whole.modules.items():
            spread.merge(other.modules[name].present())
        return whole

    def __iadd__(self, other: Spreads) -> Self:
        for name, spread in self.modules.items():
            spread.merge(other.modules[name].present())
        self.dense.__iadd__(other.dense)
        return self

    def partial(self) -> Partial:
        tensors = {
            f"modules/{name}/{field.name}": getattr(spread, field.name)
            for name, spread in self.modules.items()
            for field in fields(Spread)
        }
        return Partial({**tensors, **self.dense.tensors})
