"""FFA-LoRA: A is shared, random and frozen; only B is trained."""

from __future__ import annotations

from dataclasses import dataclass

from polyrank.aggregation.method import Method, Parts, method
from polyrank.aggregation.row_mean import RowMean
from polyrank.state import ServerState


@method(
    "ffa",
    paper="https://arxiv.org/abs/2403.12313",
    averages="B, with A random and frozen",
    exact="yes",
    linear=True,
    merges=False,
)
@dataclass(frozen=True)
class FFA(Method):
    """``B = sum_k p_k [B_k 0]``, ``A`` as it was drawn at the start.

    With one shared A the mean of the B is the mean of the products, exactly. For different ranks A is nested: a client
    of rank r uses its first r rows, and missing columns of B are zeros, which is exact here (our generalisation).
    Source: Sun et al., ICLR 2024 (FFA-LoRA).
    """

    def start(self, server: ServerState) -> RowMean:
        """An empty accumulator."""
        return RowMean(server, lambda rows: rows.filled(0.0), min_owners=0, factors="b")

    def parts(self, round_number: int) -> Parts:  # noqa: ARG002  # the same in every round
        """A is known from the seed and never changes."""
        b = frozenset({"b", "head"})
        return Parts(trains=b, sends=b, receives=b)
