"""Clients' factors, kept as they are: what methods on products add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from polyrank.aggregation.sums import Partial, Summed, Sums
from polyrank.core import lowrank
from polyrank.core.adapter import Factors

Product = tuple[Tensor, Tensor]
"""``(a, b)``, standing for ``b @ a`` with scale 1."""


@dataclass(frozen=True, eq=False)
class Term:
    """One client's factors of one module, and its weight ``w_k``."""

    client: str
    weight: float
    factors: Factors


@dataclass(frozen=True, eq=False)
class Stack:
    """The terms of one module, in the order of the clients' names, beside the server's own factors.

    Args:
        name: the module.
        terms: at least one.
        previous: the global factors before the round.
    """

    name: str
    terms: tuple[Term, ...]
    previous: Factors

    @property
    def weight(self) -> float:
        """``W``, of the clients that have this module."""
        return sum(term.weight for term in self.terms)

    def mean(self) -> Product:
        """``delta* = sum_k p_k s_k B_k A_k``, stacked."""
        return lowrank.stack(self.mean_terms())

    def mean_terms(self) -> list[tuple[float, Tensor, Tensor]]:
        """The terms of `mean`, for `lowrank.stack`."""
        total = self.weight
        return [(t.weight / total * t.factors.scale, t.factors.a, t.factors.b) for t in self.terms]

    def owned(self) -> Tensor:
        """``W(j)`` for every rank index j of the server, ``(R,)`` in float64."""
        owned = torch.zeros(self.previous.rank, dtype=torch.float64)
        for term in self.terms:
            owned[: term.factors.rank] += term.weight
        return owned


@dataclass(frozen=True, eq=False)
class Stacks(Summed):
    """Every client's factors, module by module, and the sums of dense tensors: it grows with the sum of the ranks.

    Args:
        terms: by module, in any order.
        dense: of fixed shapes.
        compress: see `polyrank.aggregation.kernels.products.Products`.
    """

    terms: dict[str, list[Term]]
    dense: Sums
    compress: float | None = None

    def __add__(self, other: Stacks) -> Stacks:
        terms = {name: [*own, *other.terms[name]] for name, own in self.terms.items()}
        return Stacks(terms, self.dense + other.dense, self.compress).shrunk()

    def __iadd__(self, other: Stacks) -> Self:
        for name, own in self.terms.items():
            own.extend(other.terms[name])
        self.dense.__iadd__(other.dense)
        return self.shrunk()

    def partial(self) -> Partial:
        """Every client's factors, or what ``compress`` has left of them."""
        about = {name: [[t.client, t.weight, t.factors.scale] for t in own] for name, own in self.terms.items()}
        tensors = {
            f"terms/{name}/{i}.{x}": getattr(term.factors, x)
            for name, own in self.terms.items()
            for i, term in enumerate(own)
            for x in "ab"
        }
        return Partial({**tensors, **self.dense.tensors}, {"terms": about})

    def shrunk(self) -> Self:
        """Shrink the stack in place, as far as ``compress`` asks."""
        for name in self.terms if self.compress is not None else ():
            self._shrink(name, self.compress or 0.0)
        return self

    def _shrink(self, name: str, share: float) -> None:
        terms = sorted(self.terms[name], key=lambda term: term.client)
        if not terms or sum(t.factors.rank for t in terms) <= min(terms[0].factors.d_out, terms[0].factors.d_in):
            return
        stack = Stack(name, tuple(terms), terms[0].factors)
        u, s, vt = lowrank.svd(*stack.mean())
        rest = torch.linalg.norm(s) * share
        tails = s.flip(0).square().cumsum(0).flip(0).sqrt()  # tails[p]: norm of what is lost when p values stay
        kept = max(int((tails > rest).sum()), 1)
        cut = Factors(vt[:kept], u[:, :kept] * s[:kept])
        self.terms[name][:] = [Term(terms[0].client, stack.weight, cut)]
