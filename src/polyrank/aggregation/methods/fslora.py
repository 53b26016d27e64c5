"""FSLoRA: every client trains a random sketch of the global adapter."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.drawn import DrawnRows
from polyrank.aggregation.kernels.rows import Rows
from polyrank.aggregation.method import method


@method(
    "fslora",
    paper="https://arxiv.org/abs/2501.19389",
    averages="changes of A and B, rank indices that are drawn for each client and round",
    exact="no",
    fixed_sums=True,
    merges=False,
    draws_indices=True,
)
@dataclass(frozen=True)
class FSLoRA(DrawnRows):
    """``A += sum_k p_k M_k (A_k - A)``, the same for B, over all clients of the round, not over the owners of a row.

    ``M_k = diag(1[j in I_k])`` for ``r_k`` of the R rank indices, drawn anew for each client and round. It trains ``B
    S_k A`` with the sketch ``S_k = (R / r_k) M_k``, which is the whole on average: its scale is ``R / r_k`` times that
    of its rank, in training alone, and what comes back are rows of A and columns of B of the global adapter. Source:
    Fang et al., ICML 2026 (FSLoRA), whose text could not be read in full; that all modules share a client's draw is
    our reading.
    """

    def combine(self, rows: Rows) -> Tensor:
        return rows.filled(rows.previous)

    def scaled_up(self, rank: int, of: int) -> float:
        """``R / r_k``."""
        return of / rank
