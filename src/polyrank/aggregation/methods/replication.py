"""Replication: the method this project exists for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from polyrank.aggregation.kernels.rows import RareRows, Rows
from polyrank.aggregation.method import method


@method(
    "replication",
    paper="https://arxiv.org/abs/2406.17477",
    averages="A and B, missing rows from high-rank clients",
    exact="no",
    fixed_sums=True,
    aligns=True,
)
@dataclass(frozen=True)
class Replication(RareRows):
    """Fill the rows that a client lacks with what the donors learned, then average.

    ``f_j`` is the weighted mean of the donors' row j. Source: Byun and Lee, NAACL 2025. With two rank levels, as in
    the paper, the donors are the owners and the result is the owners' mean; with three levels or more the choice of
    donors matters, and is ours to offer: ``"highest"`` follows the paper's words.

    Args:
        donor: ``"highest"``: the clients of the highest rank that was asked in the round, and the owners of the row
            where none of them answers; ``"owners"``: all owners of the row, which is owner_mean for any ranks and
            weights.
        min_owners: a row with fewer owners keeps its previous value.
    """

    donor: Literal["highest", "owners"] = "highest"

    def combine(self, rows: Rows) -> Tensor:
        return rows.filled(rows.owners_mean() if rows.donated is None else rows.donated)

    def has_donors(self) -> bool:
        return self.donor == "highest"
