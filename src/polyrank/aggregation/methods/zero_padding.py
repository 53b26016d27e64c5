"""Zero padding: what everybody does, and the baseline of HetLoRA and of the seed paper."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from polyrank.aggregation.kernels.rows import RareRows, Rows
from polyrank.aggregation.method import method


@method(
    "zero_padding",
    paper="https://arxiv.org/abs/2401.06432",
    averages="A and B, missing rows as zeros",
    exact="no",
    fixed_sums=True,
    aligns=True,
)
@dataclass(frozen=True)
class ZeroPadding(RareRows):
    """Pad smaller adapters with zeros, then average: fill ``f_j = 0``.

    A row owned by the weight share q shrinks by q each round, its product ``B A`` by q squared; a row that nobody
    owns in a round becomes 0. The baseline of Cho et al. 2024 and of Byun and Lee 2025.

    Args:
        keep_unowned: keep the previous value of a row that nobody owns, to tell dilution from wiping.
        min_owners: a row with fewer owners keeps its previous value; 0 is the published baseline.
    """

    keep_unowned: bool = False
    min_owners: int = field(default=0, kw_only=True)

    def combine(self, rows: Rows) -> Tensor:
        return rows.filled(0.0)

    def least_owners(self) -> int:
        return max(super().least_owners(), int(self.keep_unowned))
