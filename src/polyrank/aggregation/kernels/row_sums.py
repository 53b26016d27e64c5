"""Weighted sums of the rows that clients of different ranks own, of one module."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank.aggregation.sums import Sums
from polyrank.core.adapter import Factors
from polyrank.core.lowrank import wide


@dataclass(frozen=True, eq=False)
class RowSums:
    """Tensors of a `Sums`, by what they are; rank index j has row j of A and column j of B.

    Args:
        factors: ``"a"``: ``(r, d_in)``, ``"b"``: ``(d_out, r)``, or one of them: ``sum_{k owns j} w_k x_k``.
        weight: ``W(j)``, ``(r,)``.
        owners: how many clients own j, ``(r,)``.
    """

    factors: dict[str, Tensor]
    weight: Tensor
    owners: Tensor

    @classmethod
    def empty(cls, like: Factors, which: str) -> RowSums:
        """For clients of at most the rank of ``like``; of the factors in ``which``."""
        sums = {name: torch.zeros_like(getattr(like, name), dtype=wide(like.a.dtype)) for name in which}
        weight, owners = torch.zeros(like.rank, dtype=torch.float64), torch.zeros(like.rank, dtype=torch.int64)
        return cls(sums, weight, owners)

    @classmethod
    def of(cls, sums: Sums, start: str, which: str) -> RowSums:
        """What `named` put into the sums; the same memory."""
        tensors = sums.tensors
        factors = {name: tensors[start + name] for name in which}
        return cls(factors, tensors[f"{start}weight"], tensors[f"{start}owners"])

    @classmethod
    def taken(cls, sums: Sums, start: str, which: str) -> RowSums:
        """These tensors taken out of the sums, so that their memory can be let go."""
        rows = cls.of(sums, start, which)
        for name in rows.named(start):
            del sums.tensors[name]
        return rows

    def named(self, start: str) -> dict[str, Tensor]:
        """The tensors under names that begin with ``start``; the same memory."""
        named = {**self.factors, "weight": self.weight, "owners": self.owners}
        return {start + name: tensor for name, tensor in named.items()}

    def add(self, factors: Factors, weight: float, indices: Tensor | None = None) -> None:
        """Add one client's rows, in place; the first ones, unless ``indices`` says which, no index twice."""
        own = slice(factors.rank) if indices is None else indices
        for name, total in self.factors.items():
            most = min(weight, torch.finfo(total.dtype).max)  # torch refuses what overflows here; as a sum it is found
            rows = getattr(factors, name)
            if indices is None:
                _first(total, name, factors.rank).add_(rows, alpha=most)
            else:
                total.index_add_(0 if name == "a" else 1, indices, rows.to(total.dtype), alpha=most)
        self.weight[own] += weight
        self.owners[own] += 1

    def add_sums(self, other: RowSums) -> None:
        """Add narrower sums, in place."""
        r = len(other.weight)
        for name, total in self.factors.items():
            _first(total, name, r).add_(other.factors[name])
        self.weight[:r] += other.weight
        self.owners[:r] += other.owners


def _first(tensor: Tensor, name: str, rank: int) -> Tensor:
    """The first rank indices of a factor."""
    return tensor[:rank] if name == "a" else tensor[:, :rank]
