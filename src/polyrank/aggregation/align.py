"""Rotation of a client's factors towards the last global adapter, before their rows are averaged.

``(B Q, Q^T A)`` is the same update as ``(B, A)`` for every Q with ``Q Q^T = I``, but factor means depend on Q: two
clients that learned the same in rotated coordinates cancel one another. Aligning takes the Q that brings ``Q^T A_k``
nearest to the global A (orthogonal Procrustes): ``M = A_k A_ref^T = U S V^T``, ``Q = U V^T``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from polyrank.aggregation.around import Around
from polyrank.aggregation.method import Aggregate, Kernel, Levels, Method, MethodInfo, S
from polyrank.aggregation.sums import Partial
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.lowrank import wide
from polyrank.core.state import ClientUpdate, ServerState

Alignment = Literal["none", "rotation", "rectangular"]


@dataclass(frozen=True)
class Aligned(Around):
    """A method whose clients are rotated towards the last global adapter before they are added up.

    Args:
        method: what is done with them then.
        how: ``"rotation"``: Q is ``r_k x r_k``, the client keeps its rank and the reference is the first r_k rows;
            ``"rectangular"``: Q is ``r_k x R``, so that every client owns all R rows, of which zero padding is the
            special case ``Q = [I 0]`` (our own, unpublished).

    ``"rotation"`` is ours after FedRot (arXiv 2602.23638), which aligns A and B in turns, softly (a lambda between no
    rotation and the whole one) and by rotations alone (SO); here A alone is aligned, wholly, and Q may reflect.
    """

    method: Method
    how: Alignment

    @property
    def info(self) -> MethodInfo:  # type: ignore[override]  # a wrapper's facts are those of what it wraps
        """Those of the method; a merge has no last global adapter."""
        inner = self.method.info
        return replace(inner, averages=f"{inner.averages}, aligned with the last global adapter", merges=False)

    def start(self, server: ServerState, levels: Levels) -> Kernel[Any]:  # Any: the sums' kind is the kernel's own
        if self.how == "rectangular":
            levels = {name: (factors.rank,) for name, factors in server.adapter.modules.items()}
        return _AlignedKernel(self.method.start(server, levels), server, self.how)


class _AlignedKernel(Kernel[S]):
    def __init__(self, inner: Kernel[S], server: ServerState, how: Alignment) -> None:
        self._inner, self._server, self._how = inner, server, how

    def empty(self) -> S:
        return self._inner.empty()

    def check(self, update: ClientUpdate) -> None:
        self._inner.check(update)

    def fold(self, sums: S, update: ClientUpdate) -> S:
        self.check(update)
        return self._inner.fold(sums, aligned(update, self._server.adapter, self._how) if update.weight > 0 else update)

    def conclude(self, sums: S) -> Aggregate:
        return self._inner.conclude(sums)

    def received(self, partial: Partial) -> S:
        return self._inner.received(partial)


def aligned(update: ClientUpdate, reference: Adapter, how: Alignment) -> ClientUpdate:
    """The update in coordinates near to those of ``reference``; see `Aligned`."""
    modules = {}
    for name, factors in update.adapter.modules.items():
        known = reference.modules[name]
        modules[name] = _aligned(factors, known.prefix(factors.rank) if how == "rotation" else known)
    return replace(update, adapter=Adapter(modules, update.adapter.dense))


def _aligned(factors: Factors, reference: Factors) -> Factors:
    dtype = wide(factors.a.dtype)
    a, b = factors.a.to(dtype), factors.b.to(dtype)
    u, _, vt = torch.linalg.svd(a @ reference.a.to(dtype).T, full_matrices=False)
    q = u @ vt
    return Factors(q.T @ a, b @ q, factors.scale)
