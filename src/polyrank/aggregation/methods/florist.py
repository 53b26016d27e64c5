"""FLoRIST: the mean of the products, cut by energy, added to the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from polyrank.aggregation import base_change
from polyrank.aggregation.kernels.products import ProductMethod, fresh
from polyrank.aggregation.kernels.stacks import Product, Stack
from polyrank.aggregation.method import Aggregate, Parts, method
from polyrank.core import lowrank
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError
from polyrank.core.parallel import by_name
from polyrank.core.state import ServerState


@method(
    "florist",
    paper="https://arxiv.org/abs/2506.09199",
    averages="products, cut by energy, into the base",
    exact="no",
    fixed_sums=False,
    changes_base=True,
)
@dataclass(frozen=True)
class Florist(ProductMethod):
    """``base change += trunc_p(sum_k p_k s_k B_k A_k)`` with the smallest p that keeps the share ``tau`` of the energy.

    Energy is the sum of the squared singular values; ``tau = 1`` is exact. Clients restart from random A and zero B.
    Source: FLoRIST, arXiv 2506.09199; the default of tau is ours.

    Args:
        tau: above 0, at most 1.
        max_rank: of the base change, as in flora.
    """

    tau: float = 0.95
    max_rank: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ConfigError(f"florist: tau is {self.tau}; expected a share above 0 and at most 1")
        base_change.check_max_rank("florist", self.max_rank)

    def combine(self, server: ServerState, stacks: Mapping[str, Stack]) -> Aggregate:
        terms = base_change.carried(server)
        ranks: list[int] = []
        for name, (a, b) in by_name(lambda stack: self._kept(stack.mean()), stacks).items():
            ranks.append(a.shape[0])
            terms[name].append((1.0, a, b))
        change, error = base_change.replaced(terms, self.max_rank)
        metrics = {"compression_error": error, "kept_rank": sum(ranks) / len(ranks)}
        return Aggregate(Adapter(fresh(server, stacks)), change, metrics)

    def parts(self, round_number: int) -> Parts:  # noqa: ARG002  # the same in every round
        """A fresh adapter is known from the seed: only the head and the base change come down."""
        return Parts(receives=frozenset({"head"}))

    def change_rank(self, before: int, clients: Sequence[int], top: int) -> tuple[int, int]:  # noqa: ARG002  # as in `Method`
        """How much is kept of the round's stack is decided by its energy: at least a rank index."""
        return before + 1, before + sum(clients)

    def _kept(self, product: Product) -> Product:
        u, s, vt = lowrank.svd(*product)
        energy = torch.cumsum(s.double().square(), 0)
        if self.tau == 1 or float(energy[-1]) == 0:
            return vt, u * s
        enough = energy >= self.tau * energy[-1]
        p = int(enough.to(torch.int8).argmax()) + 1
        return vt[:p], u[:, :p] * s[:p]
