"""Zero padding of the change: only what a round changed is averaged."""

from __future__ import annotations

from dataclasses import dataclass

from polyrank.aggregation.align import Alignment, aligner
from polyrank.aggregation.method import Method, method
from polyrank.aggregation.row_mean import RowMean
from polyrank.state import ServerState


@method(
    "zero_padding_delta",
    paper="https://arxiv.org/abs/2003.00295",
    averages="changes of A and B, missing rows as no change",
    exact="no",
    linear=True,
)
@dataclass(frozen=True)
class ZeroPaddingDelta(Method):
    """Average the change of A and B since the last round, zero where a client has no row: fill = previous row.

    The FedOpt form (Reddi et al. 2021) of zero padding: rows of few owners move slowly but do not shrink.

    Args:
        min_owners: a row with fewer owners keeps its previous value.
        align: rotate clients towards the last global adapter first (see `align.py`).
    """

    min_owners: int = 1
    align: Alignment = "none"

    def start(self, server: ServerState) -> RowMean:
        """An empty accumulator."""
        return RowMean(
            server,
            lambda rows: rows.filled(rows.previous),
            prepare=aligner(server, self.align),
            min_owners=self.min_owners,
        )
