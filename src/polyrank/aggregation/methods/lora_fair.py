"""The factor mean with a correction of B, after LoRA-FAIR."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from polyrank.aggregation.kernels.products import ProductMethod
from polyrank.aggregation.kernels.rows import owners_mean_of
from polyrank.aggregation.kernels.stacks import Stack
from polyrank.aggregation.method import Aggregate, method
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import ConfigError
from polyrank.core.state import ServerState


@method(
    "lora_fair",
    paper="https://arxiv.org/abs/2411.14961",
    averages="A and B over owners, B corrected towards the mean of the products",
    exact="no",
    fixed_sums=False,
    refactors=True,
)
@dataclass(frozen=True)
class LoraFair(ProductMethod):
    """``B + dB`` with ``dB = (delta* / s - B A) A^T (A A^T + lam I)^-1``: ridge regression of what B A misses on A.

    A and B are the owners' means; ``lam`` keeps B near its mean. The idea, to correct B towards the mean of the
    products while A stays, is that of LoRA-FAIR (ICCV 2025); the problem that is solved for it is ours: the paper
    minimises a cosine distance with a penalty on ``dB`` by SGD, for equal ranks, here it is least squares, in closed
    form.

    Args:
        lam: above 0, added to the Gram matrix of A.
    """

    lam: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.lam < math.inf:
            raise ConfigError(f"lora_fair: lam is {self.lam}; expected a number above 0")

    def combine(self, server: ServerState, stacks: Mapping[str, Stack]) -> Aggregate:
        return Aggregate(Adapter({n: self._corrected(s) for n, s in stacks.items()}), server.base_change)

    def _corrected(self, stack: Stack) -> Factors:
        mean = owners_mean_of(stack.previous, [(term.weight, term.factors) for term in stack.terms])
        a, b = mean.a.double(), mean.b.double()
        product = -b @ (a @ a.T)
        for c, a_k, b_k in stack.mean_terms():
            product += (c / mean.scale) * b_k.double() @ (a_k.double() @ a.T)
        gram = a @ a.T + self.lam * torch.eye(mean.rank, dtype=torch.float64)
        corrected = b + torch.linalg.solve(gram, product.T).T
        return Factors(mean.a, corrected.to(mean.b.dtype), mean.scale)
