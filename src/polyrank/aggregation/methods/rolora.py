"""RoLoRA: B and A take turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from polyrank.aggregation.kernels.rows import RowMethod, Rows
from polyrank.aggregation.method import Parts, method
from polyrank.core.adapter import Part
from polyrank.core.state import ServerState


@method(
    "rolora",
    paper="https://arxiv.org/abs/2502.01755",
    averages="B in odd rounds, A in even ones",
    exact="yes",
    fixed_sums=True,
    merges=False,
)
@dataclass(frozen=True)
class RoLoRA(RowMethod):
    """Odd rounds train and average B, even rounds A; the other factor is common to all clients.

    So the mean of the factor is the mean of the products, exactly. B comes first: while B is zero, A has no gradient.
    For different ranks, which the paper has not, missing rows are zeros: exact, and diluted like zero padding.
    Source: Chen et al., NeurIPS 2025 (RoLoRA).

    Args:
        fill: ``"zeros"``, or ``"owners"``: every row over its owners, not exact and not diluted.
    """

    fill: Literal["zeros", "owners"] = "zeros"

    def combine(self, rows: Rows) -> Tensor:
        return rows.owners_mean() if self.fill == "owners" else _padded(rows)

    def factors(self, server: ServerState) -> str:
        return "b" if trains_b(server.round + 1) else "a"

    def least_owners(self) -> int:
        return int(self.fill == "owners")

    def parts(self, round_number: int) -> Parts:
        """One factor is trained and sent; a client may have missed the last rounds, so both come down."""
        return in_turns(round_number)


def _padded(rows: Rows) -> Tensor:
    """Zeros for what a client lacks; a row that nobody owns stays where its product is 0 as it is.

    It could otherwise become zero in both factors, in two rounds of small clients, and never learn again.
    """
    idle = (rows.owned == 0) & ~rows.partner.any(dim=1, keepdim=True)
    return torch.where(idle, rows.previous, rows.filled(0.0))


def in_turns(round_number: int) -> Parts:
    """B in odd rounds, A in even ones, and the head; both factors come down."""
    trained: frozenset[Part] = frozenset({"b" if trains_b(round_number) else "a", "head"})
    return Parts(trains=trained, sends=trained)


def trains_b(round_number: int) -> bool:
    """Whether it is B's turn."""
    return round_number % 2 == 1
