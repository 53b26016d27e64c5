"""Zero padding of the change: only what a round changed is averaged."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.rows import RareRows, Rows
from polyrank.aggregation.method import method


@method(
    "zero_padding_delta",
    paper="https://arxiv.org/abs/2003.00295",
    averages="changes of A and B, missing rows as no change",
    exact="no",
    fixed_sums=True,
    aligns=True,
)
@dataclass(frozen=True)
class ZeroPaddingDelta(RareRows):
    """Average the change of A and B since the last round, zero where a client has no row: fill = previous row.

    The FedOpt form (Reddi et al. 2021) of zero padding: rows of few owners move slowly but do not shrink.

    Args:
        min_owners: a row with fewer owners keeps its previous value.
    """

    def combine(self, rows: Rows) -> Tensor:
        return rows.filled(rows.previous)
