"""FlexLoRA: the mean of the products, redistributed by SVD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polyrank.aggregation.kernels.products import ProductMethod, cut
from polyrank.aggregation.kernels.stacks import Stack
from polyrank.aggregation.method import Aggregate, method
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError
from polyrank.core.parallel import by_name
from polyrank.core.state import ServerState


@method(
    "flexlora",
    paper="https://arxiv.org/abs/2402.11505",
    averages="products, then SVD",
    exact="up to rank R",
    fixed_sums=False,
    refactors=True,
)
@dataclass(frozen=True)
class FlexLoRA(ProductMethod):
    """``s B A = trunc_R(sum_k p_k s_k B_k A_k)``, with ``A = V^T`` and ``B = U S / s``.

    The first r rank indices are the best approximation of rank r, so that a client's prefix is its own truncated SVD.
    Known as HLoRA too. Sources: Bai et al., NeurIPS 2024; arXiv 2503.00813.

    Args:
        balanced: put the roots of the singular values on both factors.
        compress: tolerance at which the stack is cut on the way (see `Products`); off by default.
    """

    balanced: bool = False
    compress: float | None = None

    def __post_init__(self) -> None:
        if self.compress is not None and not 0 <= self.compress < 1:
            raise ConfigError(f"flexlora: compress is {self.compress}; expected a share of the norm from 0 to below 1")

    def combine(self, server: ServerState, stacks: Mapping[str, Stack]) -> Aggregate:
        modules = by_name(lambda stack: cut(stack.mean(), stack.previous, balanced=self.balanced), stacks)
        return Aggregate(Adapter(modules), server.base_change)
