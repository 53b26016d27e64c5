"""Owner mean: every rank index averaged over the clients that hold it."""

from __future__ import annotations

from dataclasses import dataclass

from polyrank.aggregation.align import Alignment, aligner
from polyrank.aggregation.method import Method, method
from polyrank.aggregation.row_mean import RowMean, Rows
from polyrank.state import ServerState


@method(
    "owner_mean",
    paper="https://arxiv.org/abs/2408.08699",
    averages="A and B, every row over its owners",
    exact="no",
    linear=True,
)
@dataclass(frozen=True)
class OwnerMean(Method):
    """Average every rank index over the clients that own it.

    ``A[j] = sum_{k: r_k > j} w_k A_k[j] / sum_{k: r_k > j} w_k``, the same for the columns of B. Known as RBLA,
    FediLoRA and the segments of PreLort. Not the mean of the products: the covariance of the factors is lost.

    Args:
        min_owners: a row with fewer owners keeps its previous value.
        align: rotate clients towards the last global adapter first (see `align.py`).
    """

    min_owners: int = 1
    align: Alignment = "none"

    def start(self, server: ServerState) -> RowMean:
        """An empty accumulator."""
        return RowMean(server, Rows.owners_mean, prepare=aligner(server, self.align), min_owners=self.min_owners)
