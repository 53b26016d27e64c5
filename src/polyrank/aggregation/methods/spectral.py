"""SpecTraL: the mean of the products, cut where singular values are no more than noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank.aggregation.kernels.products import ProductMethod
from polyrank.aggregation.kernels.stacks import Stack
from polyrank.aggregation.method import Aggregate, method
from polyrank.core import lowrank
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import ConfigError
from polyrank.core.parallel import by_name
from polyrank.core.seeds import torch_generator
from polyrank.core.state import ServerState


@method(
    "spectral",
    paper="SpecTraL, ECML-PKDD 2026",
    averages="products, cut at a threshold for noise",
    exact="no",
    fixed_sums=False,
    merges=False,
    refactors=True,
)
@dataclass(frozen=True)
class Spectral(ProductMethod):
    """``s B A = trunc_p(delta*)``, with p the number of singular values above a threshold, from 1 to R.

    ``A = V^T`` and ``B = U S / s`` for the first p rank indices; beyond them A has normal rows of length 1 on average,
    drawn from (seed, round, module), the same for all clients, and B is zero: a client of a rank above p learns new
    directions there. Source: SpecTraL, ECML-PKDD 2026, whose text could not be read. The threshold is the optimal hard
    one of Gavish and Donoho 2014 (arXiv 1305.5870); the paper's, by ScreeNOT, is another.

    Our reading where the layer's sides are ``m <= n`` and ``beta = m / n``: noise unknown, ``omega(beta)`` times the
    median singular value of the stack, those that are nothing but rounding left out, since a stack of few rank indices
    has no others and the median over the whole layer would be 0. The length of the drawn rows is ours too.

    Args:
        noise: standard deviation of the noise in an entry of the mean, where it is known.
    """

    noise: float | None = None

    def __post_init__(self) -> None:
        if self.noise is not None and not 0 <= self.noise < math.inf:
            raise ConfigError(f"spectral: noise is {self.noise}; expected a number of 0 or more, or none where unknown")

    def combine(self, server: ServerState, stacks: Mapping[str, Stack]) -> Aggregate:
        made = by_name(lambda stack: self._kept(server, stack), stacks)
        kept = [p for _, p in made.values()]
        modules = {name: factors for name, (factors, _) in made.items()}
        return Aggregate(Adapter(modules), server.base_change, {"kept_rank": sum(kept) / len(kept)})

    def _kept(self, server: ServerState, stack: Stack) -> tuple[Factors, int]:
        """The new factors of a module, and p."""
        like = stack.previous
        u, s, vt = lowrank.svd(*stack.mean())
        rounding = torch.finfo(s.dtype).eps * max(like.d_in, like.d_out) * float(s[0])
        real = s[s > rounding].double()
        p = min(max(int((real > self._threshold(real, like)).sum()), 1), like.rank)
        generator = torch_generator(server.seed, "spectral padding", server.round + 1, stack.name)
        a = (torch.randn(like.a.shape, generator=generator) / like.d_in**0.5).to(vt.dtype)
        b = u.new_zeros(like.b.shape)
        a[:p] = vt[:p]
        b[:, :p] = u[:, :p] * s[:p]
        return Factors(a.to(like.a.dtype), (b / like.scale).to(like.b.dtype), like.scale), p

    def _threshold(self, real: Tensor, like: Factors) -> float:
        """Up to which a singular value is taken for noise; those in ``real`` are more than rounding."""
        short, long = sorted((like.d_out, like.d_in))
        beta = short / long
        if self.noise is not None:
            root = math.sqrt(beta**2 + 14 * beta + 1)
            return math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + root)) * math.sqrt(long) * self.noise
        if real.numel() == 0:
            return 0.0
        return (0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43) * float(real.quantile(0.5))
