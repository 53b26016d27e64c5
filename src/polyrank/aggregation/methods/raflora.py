"""raFLoRA: products whose rank indices are averaged over the clients that reach them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polyrank.aggregation.kernels.products import ProductMethod, cut
from polyrank.aggregation.kernels.stacks import Product, Stack
from polyrank.aggregation.method import Aggregate, method
from polyrank.core import lowrank
from polyrank.core.adapter import Adapter
from polyrank.core.parallel import by_name
from polyrank.core.state import ServerState


@method(
    "raflora",
    paper="https://arxiv.org/abs/2602.13486",
    averages="products, every rank index over its owners, then SVD",
    exact="no",
    fixed_sums=False,
    refactors=True,
)
@dataclass(frozen=True)
class RaFlora(ProductMethod):
    """``s B A = trunc_R(sum_k sum_j (w_k / W(j)) s_k B_k[:, j] A_k[j, :])``.

    The paper divides by the weight of the clients that reach the segment of j between two configured rank levels; if
    every client has one of these levels, as here, that is the weight ``W(j)`` of the owners of j. Not the mean of the
    products, by design: the rows of few owners are not diluted, and the rank does not collapse. The paper's own text
    could not be read in full. Source: arXiv 2602.13486.
    """

    def combine(self, server: ServerState, stacks: Mapping[str, Stack]) -> Aggregate:
        modules = by_name(lambda stack: cut(_owners_sum(stack), stack.previous), stacks)
        return Aggregate(Adapter(modules), server.base_change)


def _owners_sum(stack: Stack) -> Product:
    owned = stack.owned()
    terms = []
    for term in stack.terms:
        factors = term.factors
        shares = (term.weight / owned[: factors.rank]).to(lowrank.wide(factors.a.dtype))
        terms.append((factors.scale, factors.a * shares[:, None], factors.b))
    return lowrank.stack(terms)
