"""Owner mean: every rank index averaged over the clients that hold it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.rows import RareRows, Rows
from polyrank.aggregation.method import method


@method(
    "owner_mean",
    paper="https://arxiv.org/abs/2408.08699",
    averages="A and B, every row over its owners",
    exact="no",
    fixed_sums=True,
    aligns=True,
)
@dataclass(frozen=True)
class OwnerMean(RareRows):
    """Average every rank index over the clients that own it.

    ``A[j] = sum_{k: r_k > j} w_k A_k[j] / sum_{k: r_k > j} w_k``, the same for the columns of B. Known as RBLA,
    FediLoRA and the segments of PreLort. Not the mean of the products: the covariance of the factors is lost.

    Args:
        min_owners: a row with fewer owners keeps its previous value.
    """

    def combine(self, rows: Rows) -> Tensor:
        return rows.owners_mean()
