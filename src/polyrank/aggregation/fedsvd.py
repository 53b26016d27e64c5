"""FedSVD: B is trained and averaged, then the product is factored anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

from polyrank.adapter import Adapter, Factors
from polyrank.aggregation.method import Aggregate, Method, Parts, method
from polyrank.aggregation.product import cut
from polyrank.aggregation.row_mean import RowMean
from polyrank.lowrank import wide
from polyrank.state import ServerState


class _Refactored(RowMean):
    """A row mean whose result is brought into the form ``A = V^T``, ``B = U S / s``."""

    def finish(self) -> Aggregate:
        result = super().finish()
        modules = {
            name: f if f is self._previous.modules[name] or not bool(f.b.any()) else _refactored(f)
            for name, f in result.adapter.modules.items()
        }
        return replace(result, adapter=Adapter(modules, result.adapter.dense))


def _refactored(factors: Factors) -> Factors:
    return cut((factors.a, factors.b.to(wide(factors.b.dtype)) * factors.scale), factors)


@method(
    "fedsvd",
    paper="https://arxiv.org/abs/2505.12805",
    averages="B, then A and B anew by SVD of the product",
    exact="yes",
    linear=True,
    merges=False,
)
@dataclass(frozen=True)
class FedSVD(Method):
    """``B = sum_k p_k [B_k 0]`` as in ffa, then ``B A = U S V^T``, ``A <- V^T``, ``B <- U S / s``.

    Exact, and A follows what was learned though no client trains it. A product of zero keeps its random A. Missing
    columns of B are zeros (our generalisation to different ranks). Source: Lee et al., NeurIPS 2025 (FedSVD).
    """

    def start(self, server: ServerState) -> RowMean:
        """An empty accumulator."""
        return _Refactored(server, lambda rows: rows.filled(0.0), min_owners=0, factors="b")

    def parts(self, round_number: int) -> Parts:  # noqa: ARG002  # the same in every round
        """B is trained and sent; both factors come down."""
        b = frozenset({"b", "head"})
        return Parts(trains=b, sends=b)
