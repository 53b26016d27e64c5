"""FedEx-LoRA: the factor mean, and what it misses beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation import base_change
from polyrank.aggregation.kernels.products import ProductMethod
from polyrank.aggregation.kernels.rows import owners_mean_of
from polyrank.aggregation.kernels.stacks import Stack
from polyrank.aggregation.method import Aggregate, Download, method
from polyrank.core import lowrank
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ServerState


@method(
    "fedex",
    paper="https://arxiv.org/abs/2410.09432",
    averages="A and B over owners, the residual into the base",
    exact="yes",
    fixed_sums=False,
    changes_base=True,
    sends_rest=True,
)
@dataclass(frozen=True)
class FedEx(ProductMethod):
    """The owners' mean of the factors, and the residual ``delta* - s B A`` as a base change, kept as low-rank factors.

    The global model is the mean of the clients' models, exactly. The paper has equal ranks; for different ones a client
    of rank r is sent the first r rank indices to train and all the others frozen, so that every rank class starts
    from the same global model (our generalisation). Source: Singhal et al., ACL 2025 (FedEx-LoRA).

    Args:
        max_rank: of the base change, as in flora.
    """

    max_rank: int | None = None

    def __post_init__(self) -> None:
        base_change.check_max_rank("fedex", self.max_rank)

    def combine(self, server: ServerState, stacks: Mapping[str, Stack]) -> Aggregate:
        modules = {
            name: owners_mean_of(s.previous, [(t.weight, t.factors) for t in s.terms]) for name, s in stacks.items()
        }
        terms = base_change.carried(server)
        for name, stack in stacks.items():
            old, new = stack.previous, modules[name]
            # share of clients for whom rank index j was frozen
            frozen = (1 - stack.owned() / stack.weight).to(lowrank.wide(old.a.dtype))
            terms[name] += [
                (old.scale, old.a * frozen[:, None], old.b),
                *stack.mean_terms(),
                (-new.scale, new.a, new.b),
            ]
        change, error = base_change.replaced(terms, self.max_rank)
        return Aggregate(Adapter(modules), change, {"compression_error": error})

    def read_out(self, server: ServerState, rank: int, client: str) -> Download:  # noqa: ARG002  # the same for all of a rank
        """The first rank indices to train; the others beside the base change, frozen."""
        terms = base_change.carried(server)
        for name, factors in server.adapter.modules.items():
            terms[name] += _tail(factors, rank)
        return Download(server.adapter.prefix(rank), base_change.replaced(terms, None)[0])

    def change_rank(self, before: int, clients: Sequence[int], top: int) -> tuple[int, int]:
        """What was frozen, every client's product, and the mean that is taken off."""
        rank = before + top + sum(clients) + top
        return rank, rank


def _tail(factors: Factors, rank: int) -> list[tuple[float, Tensor, Tensor]]:
    if rank >= factors.rank:
        return []
    return [(factors.scale, factors.a[rank:], factors.b[:, rank:])]
