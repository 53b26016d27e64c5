"""FedHL: the server keeps the whole product and adds what each client changed of its own cut of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from polyrank.aggregation import base_change
from polyrank.aggregation.kernels.products import ProductMethod, cut
from polyrank.aggregation.kernels.stacks import Stack
from polyrank.aggregation.method import Aggregate, Download, method
from polyrank.core import lowrank
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import ConfigError
from polyrank.core.parallel import by_name
from polyrank.core.state import ServerState

Terms = list[tuple[float, Tensor, Tensor]]


@method(
    "fedhl",
    paper="https://arxiv.org/abs/2505.18494",
    averages="changes of products against each client's own start",
    exact="no",
    fixed_sums=False,
    changes_base=True,
    merges=False,
    refactors=True,
)
@dataclass(frozen=True)
class FedHL(ProductMethod):
    """``W <- W + sum_i q_i (s_i B_i A_i - trunc_{r_i}(W))``: unbiased in the change, whatever the cuts to the ranks.

    The adapter is ``trunc_R(W)`` in SVD form and the base change the rest of W; clients are sent their cut only. The
    weights are ``q_i ~ 1 / (tail_i^2 / |W|^2 + eps)`` with the tail ``|W - trunc_{r_i}(W)|_F`` over all layers: a
    client that lost little by its cut counts more. That weights fall with the tail is the paper's; how is ours: the
    power of 2, which is not the paper's, the tail relative to ``|W|``, and eps. Source: arXiv 2505.18494, whose text
    could not be read in full.

    Args:
        weights: ``"tail"``, as above, or ``"examples"``: ``q_i = p_i``.
        eps: above 0.
        max_rank: of the rest of W that is kept; by default all of it.
    """

    weights: Literal["tail", "examples"] = "tail"
    eps: float = 0.01
    max_rank: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.eps < math.inf:
            raise ConfigError(f"fedhl: eps is {self.eps}; expected a number above 0")
        base_change.check_max_rank("fedhl", self.max_rank)

    def combine(self, server: ServerState, stacks: Mapping[str, Stack]) -> Aggregate:
        shares = self._shares(server, stacks)
        rests = base_change.carried(server)

        def kept_and_rest(stack: Stack) -> tuple[Factors, Terms]:
            old, stays = stack.previous, torch.ones(stack.previous.rank, dtype=torch.float64)
            for term in stack.terms:  # sum_i q_i trunc_{r_i}(W), by rank index and not by client: nothing cancels
                stays[: term.factors.rank] -= shares[term.client]
            whole = [
                *rests[stack.name],
                (old.scale, old.a * stays.to(lowrank.wide(old.a.dtype))[:, None], old.b),
                *((shares[t.client] * t.factors.scale, t.factors.a, t.factors.b) for t in stack.terms),
            ]
            kept = cut(lowrank.stack(whole), old)
            return kept, [*whole, (-kept.scale, kept.a, kept.b)]

        found = by_name(kept_and_rest, stacks)
        modules = {name: kept for name, (kept, _) in found.items()}
        rests |= {name: left for name, (_, left) in found.items()}
        rest, error = base_change.replaced(rests, self.max_rank)
        return Aggregate(Adapter(modules), rest, {"compression_error": error})

    def read_out(self, server: ServerState, rank: int, client: str) -> Download:  # noqa: ARG002  # the same for all of a rank
        """The cut to the client's rank; the rest of W stays with the server."""
        return Download(server.adapter.prefix(rank))

    def _shares(self, server: ServerState, stacks: Mapping[str, Stack]) -> dict[str, float]:
        """``q_i`` by client, with the sum 1."""
        weights = {term.client: term.weight for stack in stacks.values() for term in stack.terms}
        if self.weights == "tail":
            ranks = {t.client: dict.fromkeys(server.adapter.modules, 0) for s in stacks.values() for t in s.terms}
            for stack in stacks.values():
                for term in stack.terms:
                    ranks[term.client][stack.name] = term.factors.rank
            size = self._energy(server, dict.fromkeys(server.adapter.modules, 0))
            tails: dict[tuple[int, ...], float] = {}  # by ranks, not by client: clients of one rank lose the same
            for client, of_module in ranks.items():
                key = tuple(of_module.values())
                if key not in tails:
                    tails[key] = self._energy(server, of_module) / size if size > 0 else 0.0
                weights[client] = 1 / (tails[key] + self.eps)
        total = sum(weights.values())
        return {client: weight / total for client, weight in weights.items()}

    @staticmethod
    def _energy(server: ServerState, ranks: Mapping[str, int]) -> float:
        """``|W - trunc_r(W)|_F^2`` over all layers; W itself for ranks of 0."""
        energy = 0.0
        for name, factors in server.adapter.modules.items():
            start = ranks[name]
            tail: Terms = [(factors.scale, factors.a[start:], factors.b[:, start:])]
            tail += base_change.terms_of(server.base_change, name)
            energy += lowrank.norm(*lowrank.stack((c, a.double(), b.double()) for c, a, b in tail)) ** 2
        return energy
