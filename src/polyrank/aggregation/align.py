"""Rotation of a client's factors towards the last global adapter, before their rows are averaged.

``(B Q, Q^T A)`` is the same update as ``(B, A)`` for every Q with ``Q Q^T = I``, but factor means depend on Q: two
clients that learned the same in rotated coordinates cancel one another. Aligning takes the Q that brings ``Q^T A_k``
nearest to the global A (orthogonal Procrustes): ``M = A_k A_ref^T = U S V^T``, ``Q = U V^T``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch

from polyrank.adapter import Adapter, Factors
from polyrank.lowrank import wide
from polyrank.state import ClientUpdate, ServerState

Alignment = Literal["none", "rotation", "rectangular"]


def aligner(server: ServerState, how: Alignment) -> Callable[[ClientUpdate], ClientUpdate]:
    """What is done to an update before it is added.

    Args:
        server: its adapter's A is the reference.
        how: ``"none"``; ``"rotation"``: Q is ``r_k x r_k``, the client keeps its rank and the reference is the first
            r_k rows; ``"rectangular"``: Q is ``r_k x R``, so that every client owns all R rows, of which zero padding
            is the special case ``Q = [I 0]`` (our own, unpublished).

    ``"rotation"`` is ours after FedRot (arXiv 2602.23638), which aligns A and B in turns, softly (a lambda between no
    rotation and the whole one) and by rotations alone (SO); here A alone is aligned, wholly, and Q may reflect.
    """
    if how == "none":
        return lambda update: update

    def align(update: ClientUpdate) -> ClientUpdate:
        reference = server.adapter.modules
        modules = {
            name: _aligned(factors, reference[name].prefix(factors.rank) if how == "rotation" else reference[name])
            for name, factors in update.adapter.modules.items()
        }
        return replace(update, adapter=Adapter(modules, update.adapter.dense))

    return align


def _aligned(factors: Factors, reference: Factors) -> Factors:
    dtype = wide(factors.a.dtype)
    a, b = factors.a.to(dtype), factors.b.to(dtype)
    u, _, vt = torch.linalg.svd(a @ reference.a.to(dtype).T, full_matrices=False)
    q = u @ vt
    return Factors(q.T @ a, b @ q, factors.scale)
