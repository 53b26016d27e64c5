"""Weighted sums of the rows that clients of different ranks own."""

from __future__ import annotations

import torch

from polyrank.adapter import Factors
from polyrank.aggregation.method import Partial
from polyrank.aggregation.updates import taken
from polyrank.errors import AdapterError
from polyrank.lowrank import wide


class RowSums:
    """Weighted sums of one module's rows over its owners, for clients of at most the rank of ``like``."""

    def __init__(self, like: Factors) -> None:
        dtype = wide(like.a.dtype)
        self.a = torch.zeros_like(like.a, dtype=dtype)
        self.b = torch.zeros_like(like.b, dtype=dtype)
        self.weight = torch.zeros(like.rank, dtype=torch.float64)
        self.owners = torch.zeros(like.rank, dtype=torch.int64)

    @property
    def rank(self) -> int:
        """How many rows there are."""
        return self.a.shape[0]

    def add(self, factors: Factors, weight: float) -> None:
        """One client's rows."""
        r = factors.rank
        most = min(weight, torch.finfo(self.a.dtype).max)  # torch refuses what overflows here; as a sum it is found
        self.a[:r].add_(factors.a, alpha=most)
        self.b[:, :r].add_(factors.b, alpha=most)
        self.weight[:r] += weight
        self.owners[:r] += 1

    def merge(self, other: RowSums) -> None:
        """Add sums of another width; rows beyond the narrower one must be empty."""
        r = min(self.rank, other.rank)
        self.a[:r] += other.a[:r]
        self.b[:, :r] += other.b[:, :r]
        self.weight[:r] += other.weight[:r]
        self.owners[:r] += other.owners[:r]

    def dump(self, which: str) -> Partial:
        """The rows that somebody owns, of the factors in ``which``; owners of a row own all before it."""
        r = int(self.owners.count_nonzero())
        factors = {"a": self.a[:r], "b": self.b[:, :r]}
        tensors = {name: tensor for name, tensor in factors.items() if name in which}
        return Partial({"rank": r}, {**tensors, "weight": self.weight[:r], "owners": self.owners[:r]})

    def restore(self, partial: Partial, which: str) -> None:
        """Add what `dump` made.

        Raises:
            AdapterError: it is not of such sums.
        """
        r = partial.about.get("rank")
        if not isinstance(r, int) or not 0 <= r <= self.rank:
            raise AdapterError(f"the sums have the rank {r!r}; expected 0 to {self.rank}")
        if "a" in which:
            self.a[:r] += taken(partial, "a", (r, self.a.shape[1]), self.a.dtype)
        if "b" in which:
            self.b[:, :r] += taken(partial, "b", (self.b.shape[0], r), self.b.dtype)
        weight = taken(partial, "weight", (r,), self.weight.dtype)
        owners = taken(partial, "owners", (r,), self.owners.dtype)
        if bool((weight < 0).any()) or bool((owners < 1).any()):
            raise AdapterError("the sums have rows of negative weight, or without an owner; expected neither")
        self.weight[:r] += weight
        self.owners[:r] += owners

    def clear(self) -> None:
        """As if nothing had been added."""
        for tensor in (self.a, self.b, self.weight, self.owners):
            tensor.zero_()
