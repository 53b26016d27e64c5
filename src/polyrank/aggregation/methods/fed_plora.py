"""Fed-PLoRA: parallel modules of rank 1, of which every client trains some and has the others frozen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank.aggregation import base_change
from polyrank.aggregation.kernels.drawn import DrawnRows
from polyrank.aggregation.kernels.rows import Rows
from polyrank.aggregation.method import Download, method
from polyrank.core.adapter import Factors
from polyrank.core.state import ServerState


@method(
    "fed_plora",
    paper="https://arxiv.org/abs/2602.16936",
    averages="A and B, every row over its owners, rank indices that are drawn for each client and round",
    exact="no",
    fixed_sums=True,
    merges=False,
    draws_indices=True,
    sends_rest=True,
)
@dataclass(frozen=True)
class FedPLoRA(DrawnRows):
    """``x_j = sum_{k: j in K_k} w_k x_{k,j} / W(j)`` for ``r_k`` of the R rank indices, drawn in each round.

    A client is sent the others too, ``s sum_{j not in K_k} B_j A_j``, and holds them frozen: they are folded into its
    base, so that all start from the whole global model. Down come all R, up go ``r_k``. A rank index that nobody
    trained keeps its value. With equal ranks R it is FedIT. Source: Zhang et al., ICLR 2026 (Fed-PLoRA), whose text
    could not be read in full; that all modules share a client's draw is our reading.
    """

    def combine(self, rows: Rows) -> Tensor:
        return rows.owners_mean()

    def read_out(self, server: ServerState, rank: int, client: str) -> Download:
        """What was drawn for the client to train, and all other rank indices beside the base change, frozen."""
        known = server.adapter.modules
        own = self.indices(server, client, {name: min(rank, factors.rank) for name, factors in known.items()})
        terms = base_change.carried(server)
        for name, factors in known.items():
            rest = _without(factors, own[name])
            if rest.rank > 0:
                terms[name].append((rest.scale, rest.a, rest.b))
        return Download(super().read_out(server, rank, client).adapter, base_change.replaced(terms, None)[0])


def _without(factors: Factors, indices: Tensor) -> Factors:
    rest = torch.ones(factors.rank, dtype=torch.bool)
    rest[indices] = False
    return factors.picked(rest.nonzero().flatten())
