"""Algebra on products ``b @ a`` of thin factors that never forms the ``d_out x d_in`` matrix without need.

Shapes everywhere: ``a`` is ``(rank, d_in)``, ``b`` is ``(d_out, rank)``. Sums and decompositions run in float32 or
wider. Pure torch; nothing here knows of scales, modules or clients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of ``dtype`` are summed: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def inner(a: Tensor, b: Tensor, a2: Tensor, b2: Tensor) -> float:
    """Frobenius inner product ``<b a, b2 a2>`` as ``sum((b^T b2) * (a a2^T))``, in float64."""
    gram_b = b.double().T @ b2.double()
    gram_a = a.double() @ a2.double().T
    return float((gram_b * gram_a).sum())


def norm(a: Tensor, b: Tensor) -> float:
    """Frobenius norm ``|b a|``; exact up to float64 rounding of the Gram matrices."""
    d_in, d_out, rank = a.shape[1], b.shape[0], a.shape[0]
    if rank > min(d_in, d_out):
        return float(torch.linalg.norm(b.double() @ a.double()))
    return math.sqrt(max(inner(a, b, a, b), 0.0))


def stack(terms: Iterable[tuple[float, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Factors of ``sum_k c_k b_k a_k``: ranks add up.

    Each term is ``(c, a, b)``. The root of ``|c|`` goes on both sides, so that no side is badly scaled; the sign of
    ``c`` goes on ``b``.
    """
    rows: list[Tensor] = []
    columns: list[Tensor] = []
    for c, a, b in terms:
        root = abs(c) ** 0.5
        rows.append(a.to(wide(a.dtype)) * root)
        columns.append(b.to(wide(b.dtype)) * (root if c >= 0 else -root))
    return torch.cat(rows), torch.cat(columns, dim=1)


def svd(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD ``u diag(s) vt`` of ``b @ a`` with deterministic signs.

    Thin QR of both factors and an SVD of the small core, ``O((d_out + d_in) S^2 + S^3)`` for stacked rank ``S``; when
    ``S`` is above ``min(d_out, d_in)`` the dense product is smaller and is used. The thin way runs in float64, which
    costs little there and keeps a cut between close singular values where it belongs; the result is float32 or wider.
    The largest entry of every left vector is positive. ``u`` is ``(d_out, m)``, ``s`` is ``(m,)`` descending, ``vt`` is
    ``(m, d_in)``, with ``m = min(S, d_out, d_in)``.
    """
    dtype = wide(torch.promote_types(a.dtype, b.dtype))
    if a.shape[0] > min(b.shape[0], a.shape[1]):
        u, s, vt = torch.linalg.svd(b.to(dtype) @ a.to(dtype), full_matrices=False)
    else:
        q_left, r_left = torch.linalg.qr(b.double())
        q_right, r_right = torch.linalg.qr(a.double().T)
        core_u, s, core_vt = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
        u, vt = q_left @ core_u, core_vt @ q_right.T
    signs = torch.sign(u.gather(0, u.abs().argmax(dim=0, keepdim=True))).squeeze(0)
    signs = torch.where(signs == 0, torch.ones_like(signs), signs)
    return (u * signs).to(dtype), s.to(dtype), (vt * signs[:, None]).to(dtype)


def truncate(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-``rank`` approximation of ``b @ a`` (Eckart-Young), as ``a = vt``, ``b = u diag(s)``.

    Fewer than ``rank`` singular values leave zero rows in ``a`` and zero columns in ``b``, so that the result always
    has exactly the rank that was asked for. Returned in the dtype of the sums.
    """
    u, s, vt = svd(a, b)
    kept = min(rank, s.numel())
    out_a = vt.new_zeros(rank, a.shape[1])
    out_b = u.new_zeros(b.shape[0], rank)
    out_a[:kept] = vt[:kept]
    out_b[:, :kept] = u[:, :kept] * s[:kept]
    return out_a, out_b


def singular_values(a: Tensor, b: Tensor) -> Tensor:
    """Singular values of ``b @ a``, descending, ``(min(rank, d_out, d_in),)``."""
    return svd(a, b)[1]


def difference_norm(left: tuple[Tensor, Tensor], right: Sequence[tuple[float, Tensor, Tensor]]) -> float:
    """Frobenius norm of ``b a - sum_k c_k b_k a_k`` for ``left = (a, b)``, from the stacked factors in float64."""
    a, b = left
    terms = [(1.0, a.double(), b.double()), *((-c, x.double(), y.double()) for c, x, y in right)]
    return norm(*stack(terms))


def effective_rank(singular: Tensor) -> float:
    """``exp`` of the entropy of the energies ``s^2 / sum s^2``: how many directions the product really uses.

    1 for one direction, ``m`` for ``m`` equal ones, 0 for a product of zero. Roy and Vetterli 2007, with energies
    instead of singular values.
    """
    energy = singular.double().square()
    total = energy.sum()
    if total == 0:
        return 0.0
    shares = energy / total
    return math.exp(-float((shares * shares.clamp(min=torch.finfo(torch.float64).tiny).log()).sum()))
