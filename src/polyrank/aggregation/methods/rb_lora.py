"""RB-LoRA: the owners' mean, read out by SVD."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.products import factored_anew
from polyrank.aggregation.kernels.rows import RareRows, Rows
from polyrank.aggregation.method import method
from polyrank.core.adapter import Adapter
from polyrank.core.state import ServerState


@method(
    "rb_lora",
    paper="https://aclanthology.org/2026.findings-eacl.88",
    averages="A and B, every row over its owners, then A and B anew by SVD of the product",
    exact="no",
    fixed_sums=True,
    merges=False,
    refactors=True,
)
@dataclass(frozen=True)
class RBLoRA(RareRows):
    """``x_j = sum_{k owns j} w_k x_{k,j} / W(j)``; clients start from the best approximation of their rank.

    Source: Ha et al., Findings of EACL 2026 (RB-LoRA), whose text could not be read; the published code is no help, as
    its registry maps the name to another rule. Our reading: the bank itself is factored anew, ``s B A = U S V^T``,
    ``A <- V^T``, ``B <- U S / s``, so that its first r rank indices are what a client of rank r is sent. Were the bank
    left in its old coordinates, rows that nobody owned in a round would be of other coordinates than the means beside
    them, which are of what clients were sent: what both hold would count twice.

    Args:
        min_owners: a row with fewer owners keeps its previous value.
    """

    def combine(self, rows: Rows) -> Tensor:
        return rows.owners_mean()

    def finish(self, adapter: Adapter, server: ServerState) -> Adapter:
        """``A = V^T``, ``B = U S / s``."""
        return factored_anew(adapter, server.adapter)
