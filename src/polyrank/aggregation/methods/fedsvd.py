"""FedSVD: B is trained and averaged, then the product is factored anew."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.products import factored_anew
from polyrank.aggregation.kernels.rows import RowMethod, Rows
from polyrank.aggregation.method import Parts, method
from polyrank.core.adapter import Adapter, Part
from polyrank.core.state import ServerState


@method(
    "fedsvd",
    paper="https://arxiv.org/abs/2505.12805",
    averages="B, then A and B anew by SVD of the product",
    exact="yes",
    fixed_sums=True,
    merges=False,
    refactors=True,
)
@dataclass(frozen=True)
class FedSVD(RowMethod):
    """``B = sum_k p_k [B_k 0]`` as in ffa, then ``B A = U S V^T``, ``A <- V^T``, ``B <- U S / s``.

    Exact, and A follows what was learned though no client trains it. A product of zero keeps its random A. Missing
    columns of B are zeros (our generalisation to different ranks). Source: Lee et al., NeurIPS 2025 (FedSVD).
    """

    def combine(self, rows: Rows) -> Tensor:
        return rows.filled(0.0)

    def factors(self, server: ServerState) -> str:  # noqa: ARG002  # the same in every round
        return "b"

    def least_owners(self) -> int:
        """A column that nobody owns is zero like any other that is missing, so 0."""
        return 0

    def finish(self, adapter: Adapter, server: ServerState) -> Adapter:
        """``A = V^T``, ``B = U S / s``."""
        return factored_anew(adapter, server.adapter)

    def parts(self, round_number: int) -> Parts:  # noqa: ARG002  # the same in every round
        """B is trained and sent; both factors come down."""
        b: frozenset[Part] = frozenset({"b", "head"})
        return Parts(trains=b, sends=b)
