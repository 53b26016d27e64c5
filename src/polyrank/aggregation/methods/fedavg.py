"""FedIT: the plain factor mean, for clients that all have the same rank."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.rows import RowMethod, Rows
from polyrank.aggregation.method import method
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate, ServerState


@method(
    "fedavg",
    paper="https://arxiv.org/abs/2305.05644",
    averages="A and B, equal ranks only",
    exact="no",
    fixed_sums=True,
    aligns=True,
    equal_ranks=True,
)
@dataclass(frozen=True)
class FedAvg(RowMethod):
    """Average A and B over the clients, which must all have the global rank: ``out = sum_k p_k x_k``.

    Not the mean of the products: the covariance of the factors is lost. Source: Zhang et al. 2024 (FedIT).

    Raises (where an update is added):
        AdapterError: a client has another rank; it is named.
    """

    def combine(self, rows: Rows) -> Tensor:
        return rows.owners_mean()

    def check(self, update: ClientUpdate, server: ServerState) -> None:
        known = server.adapter.modules
        for name, factors in update.adapter.modules.items():
            expected = known[name].rank if name in known else factors.rank
            if factors.rank != expected:
                raise AdapterError(
                    f"fedavg needs equal ranks: client {update.client} sent rank {factors.rank} for {name}, expected "
                    f"{expected}; use replication, owner_mean or zero_padding for clients of different ranks"
                )
