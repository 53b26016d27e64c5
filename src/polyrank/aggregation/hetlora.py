"""HetLoRA: zero padding, weighted by how much each client's update holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polyrank.aggregation.align import Alignment, aligner
from polyrank.aggregation.method import Method, method
from polyrank.aggregation.row_mean import RowMean
from polyrank.state import ClientUpdate, ServerState


def _norm(update: ClientUpdate) -> float:
    return math.hypot(*(factors.norm() for factors in update.adapter.modules.values()))


@method(
    "hetlora",
    paper="https://arxiv.org/abs/2401.06432",
    averages="A and B, missing rows as zeros, weights by norm",
    exact="no",
    linear=True,
)
@dataclass(frozen=True)
class HetLoRA(Method):
    """Zero padding with ``w_k = |s_k B_k A_k|_F`` over all layers instead of the number of examples.

    The norm is computed from the Gram matrices of the factors. A client of weight 0 stays out. Source: Cho et al.
    2024 (HetLoRA), section 3.3; the scale inside the norm, and that a row nobody owns keeps its value only under
    ``keep_unowned``, are readings of ours. Self-pruning of ranks is a rank policy, not part of this method.

    Args:
        per_layer: weigh every module by its own norm; dense tensors still by the norm over all layers.
        keep_unowned: keep the previous value of a row that nobody owns.
        min_owners: a row with fewer owners keeps its previous value.
        align: rotate clients towards the last global adapter first (see `align.py`).
    """

    per_layer: bool = False
    keep_unowned: bool = False
    min_owners: int = 0
    align: Alignment = "none"

    def start(self, server: ServerState) -> RowMean:
        """An empty accumulator."""
        return RowMean(
            server,
            lambda rows: rows.filled(0.0),
            weigh=_norm,
            weigh_module=(lambda update, name: update.adapter.modules[name].norm()) if self.per_layer else None,
            prepare=aligner(server, self.align),
            min_owners=max(self.min_owners, int(self.keep_unowned)),
        )
