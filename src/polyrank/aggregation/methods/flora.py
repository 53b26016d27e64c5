"""FLoRA: stack all adapters, add their mean to the base, start anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyrank.aggregation import base_change
from polyrank.aggregation.kernels.products import ProductMethod, fresh
from polyrank.aggregation.kernels.stacks import Stack
from polyrank.aggregation.method import Aggregate, Parts, method
from polyrank.core.adapter import Adapter
from polyrank.core.state import ServerState


@method(
    "flora",
    paper="https://arxiv.org/abs/2409.05976",
    averages="products, stacked into the base",
    exact="yes",
    fixed_sums=False,
    changes_base=True,
)
@dataclass(frozen=True)
class Flora(ProductMethod):
    """``base change += sum_k p_k s_k B_k A_k``, as stacked factors; clients restart from random A and zero B.

    Exact for any ranks, scales and weights. The base change grows by the sum of the ranks each round and is
    re-compressed when its rank passes ``max_rank``. Source: Wang et al., NeurIPS 2024 (FLoRA).

    Args:
        max_rank: of the base change; by default the smaller side of each layer, where compression loses nothing. The
            relative error of a cut is the metric ``compression_error``.
    """

    max_rank: int | None = None

    def __post_init__(self) -> None:
        base_change.check_max_rank("flora", self.max_rank)

    def combine(self, server: ServerState, stacks: Mapping[str, Stack]) -> Aggregate:
        terms = base_change.carried(server)
        for name, stack in stacks.items():
            terms[name] += stack.mean_terms()
        change, error = base_change.replaced(terms, self.max_rank)
        return Aggregate(Adapter(fresh(server, stacks)), change, {"compression_error": error})

    def parts(self, round_number: int) -> Parts:  # noqa: ARG002  # the same in every round
        """A fresh adapter is known from the seed: only the head and the base change come down."""
        return Parts(receives=frozenset({"head"}))

    def change_rank(self, before: int, clients: Sequence[int], top: int) -> tuple[int, int]:  # noqa: ARG002  # as in `Method`
        """Every client's factors are stacked upon it."""
        return before + sum(clients), before + sum(clients)
