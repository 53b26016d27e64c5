"""LoRA-A2: B and A take turns, and every client chooses the rank indices that it trains."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.rows import RowMethod, Rows
from polyrank.aggregation.method import Download, Parts, method
from polyrank.aggregation.methods.rolora import in_turns, trains_b
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate, ServerState


@method(
    "lora_a2",
    paper="https://arxiv.org/abs/2410.22815",
    averages="B in odd rounds, A in even ones, every row over the clients that chose it",
    exact="no",
    fixed_sums=True,
    merges=False,
    chooses_indices=True,
)
@dataclass(frozen=True)
class LoRAA2(RowMethod):
    """``x_j = sum_{k chose j} w_k x_{k,j} / W(j)`` for the factor whose turn it is; the other one is common to all.

    A client of rank r is sent all R rank indices of all M modules, scores each, and trains and sends the best ``r M``
    of them, whatever their modules: a budget, and no rank per module. The others stay frozen in its base. A rank index
    that nobody chose keeps its value. Where all choose all, the mean is exact as rolora's. Source: Koo et al., ACL 2025
    (LoRA-A2), whose text could not be read. How a client scores is our reading (`polyrank.training.choosing`).
    """

    def combine(self, rows: Rows) -> Tensor:
        return rows.owners_mean()

    def factors(self, server: ServerState) -> str:
        return "b" if trains_b(server.round + 1) else "a"

    def check(self, update: ClientUpdate, server: ServerState) -> None:
        """Refuse more rank indices than the client may choose.

        Raises:
            AdapterError: it sent more; it is named.
        """
        if update.client not in server.ranks:
            return
        most, found = server.adapter.budget(server.ranks[update.client]), sum(update.adapter.ranks.values())
        if found > most:
            raise AdapterError(f"client {update.client} sent {found} rank indices; expected at most {most} in all")

    def parts(self, round_number: int) -> Parts:
        """What rolora trains and sends; both factors come down."""
        return in_turns(round_number)

    def read_out(self, server: ServerState, rank: int, client: str) -> Download:  # noqa: ARG002  # the same for all
        """The whole adapter, whatever the client's rank."""
        return Download(server.adapter, server.base_change)
