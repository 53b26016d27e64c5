"""FedIT: the plain factor mean, for clients that all have the same rank."""

from __future__ import annotations

from dataclasses import dataclass

from polyrank.aggregation.align import Alignment, aligner
from polyrank.aggregation.method import Method, method
from polyrank.aggregation.row_mean import RowMean, Rows
from polyrank.errors import AdapterError
from polyrank.state import ClientUpdate, ServerState


class _EqualRanks(RowMean):
    """A row mean that refuses an update of another rank than the server's."""

    def add(self, update: ClientUpdate) -> None:
        for name, factors in update.adapter.modules.items():
            expected = self._previous.modules[name].rank if name in self._previous.modules else factors.rank
            if factors.rank != expected:
                raise AdapterError(
                    f"fedavg needs equal ranks: client {update.client} sent rank {factors.rank} for {name}, expected "
                    f"{expected}; use replication, owner_mean or zero_padding for clients of different ranks"
                )
        super().add(update)


@method(
    "fedavg",
    paper="https://arxiv.org/abs/2305.05644",
    averages="A and B, equal ranks only",
    exact="no",
    linear=True,
    equal_ranks=True,
)
@dataclass(frozen=True)
class FedAvg(Method):
    """Average A and B over the clients, which must all have the global rank: ``out = sum_k p_k x_k``.

    Not the mean of the products: the covariance of the factors is lost. Source: Zhang et al. 2024 (FedIT).

    Args:
        align: rotate clients towards the last global adapter first (see `align.py`).

    Raises (in ``add``):
        AdapterError: a client has another rank; it is named.
    """

    align: Alignment = "none"

    def start(self, server: ServerState) -> RowMean:
        """An empty accumulator."""
        return _EqualRanks(server, Rows.owners_mean, prepare=aligner(server, self.align))
