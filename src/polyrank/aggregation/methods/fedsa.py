"""FedSA-LoRA: A is shared, B stays with the client."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.rows import RareRows, Rows
from polyrank.aggregation.method import Parts, method
from polyrank.core.adapter import Part
from polyrank.core.state import ServerState


@method(
    "fedsa",
    paper="https://arxiv.org/abs/2410.01463",
    averages="A over owners; B and head stay with the client",
    exact="no",
    fixed_sums=True,
    merges=False,
)
@dataclass(frozen=True)
class FedSA(RareRows):
    """Clients train A and B and share A only; every row of A is averaged over its owners.

    Personalised: there is no global B, so a client is evaluated with its own B and head. Source: Guo et al., ICLR 2025
    (FedSA-LoRA); the owners' mean for different ranks is our generalisation.

    Args:
        min_owners: a row with fewer owners keeps its previous value.
    """

    def combine(self, rows: Rows) -> Tensor:
        return rows.owners_mean()

    def factors(self, server: ServerState) -> str:  # noqa: ARG002  # the same in every round
        return "a"

    def parts(self, round_number: int) -> Parts:  # noqa: ARG002  # the same in every round
        """Only A travels."""
        a: frozenset[Part] = frozenset({"a"})
        return Parts(sends=a, receives=a, keeps=frozenset({"b", "head"}))
