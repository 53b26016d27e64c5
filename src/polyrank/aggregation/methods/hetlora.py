"""HetLoRA: zero padding, weighted by how much each client's update holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from polyrank.aggregation.kernels.rows import RareRows, Rows
from polyrank.aggregation.method import method
from polyrank.core.state import ClientUpdate


@method(
    "hetlora",
    paper="https://arxiv.org/abs/2401.06432",
    averages="A and B, missing rows as zeros, weights by norm",
    exact="no",
    fixed_sums=True,
    aligns=True,
    own_weights=True,
)
@dataclass(frozen=True)
class HetLoRA(RareRows):
    """Zero padding with ``w_k = |s_k B_k A_k|_F`` over all layers instead of the number of examples.

    The norm is computed from the Gram matrices of the factors. A client of weight 0 stays out. Source: Cho et al.
    2024 (HetLoRA), section 3.3; the scale inside the norm, and that a row nobody owns keeps its value only under
    ``keep_unowned``, are readings of ours. Self-pruning of ranks is a rank policy, not part of this method.

    Args:
        per_layer: weigh every module by its own norm; dense tensors still by the norm over all layers.
        keep_unowned: keep the previous value of a row that nobody owns.
        min_owners: a row with fewer owners keeps its previous value.
    """

    per_layer: bool = False
    keep_unowned: bool = False
    min_owners: int = field(default=0, kw_only=True)

    def combine(self, rows: Rows) -> Tensor:
        return rows.filled(0.0)

    def weight(self, update: ClientUpdate) -> float:
        return math.hypot(*(factors.norm() for factors in update.adapter.modules.values()))

    def module_weights(self, update: ClientUpdate, weight: float) -> Mapping[str, float]:
        if not self.per_layer:
            return super().module_weights(update, weight)
        return {name: factors.norm() for name, factors in update.adapter.modules.items()}

    def least_owners(self) -> int:
        return max(super().least_owners(), int(self.keep_unowned))
