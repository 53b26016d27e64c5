"""FFA-LoRA: A is shared, random and frozen; only B is trained."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.rows import RowMethod, Rows
from polyrank.aggregation.method import Parts, method
from polyrank.core.adapter import Part
from polyrank.core.state import ServerState


@method(
    "ffa",
    paper="https://arxiv.org/abs/2403.12313",
    averages="B, with A random and frozen",
    exact="yes",
    fixed_sums=True,
    merges=False,
)
@dataclass(frozen=True)
class FFA(RowMethod):
    """``B = sum_k p_k [B_k 0]``, ``A`` as it was drawn at the start.

    With one shared A the mean of the B is the mean of the products, exactly. For different ranks A is nested: a client
    of rank r uses its first r rows, and missing columns of B are zeros, which is exact here (our generalisation).
    Source: Sun et al., ICLR 2024 (FFA-LoRA).
    """

    def combine(self, rows: Rows) -> Tensor:
        return rows.filled(0.0)

    def factors(self, server: ServerState) -> str:  # noqa: ARG002  # the same in every round
        return "b"

    def least_owners(self) -> int:
        """A column that nobody owns is zero like any other that is missing, so 0."""
        return 0

    def parts(self, round_number: int) -> Parts:  # noqa: ARG002  # the same in every round
        """A is known from the seed and never changes."""
        b: frozenset[Part] = frozenset({"b", "head"})
        return Parts(trains=b, sends=b, receives=b)
