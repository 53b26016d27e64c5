"""The base change: a shared, frozen low-rank update beside the trained adapter, kept small by re-compression.

It is never merged into the weights of the base, so a quantised base stays quantised and one base serves all clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polyrank.core import lowrank
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import ConfigError
from polyrank.core.parallel import by_name
from polyrank.core.state import ServerState


def check_max_rank(method: str, max_rank: int | None) -> None:
    """Refuse an option that leaves no rank for the base change.

    Raises:
        ConfigError: it is below 1.
    """
    if max_rank is not None and max_rank < 1:
        raise ConfigError(f"{method}: max_rank is {max_rank}; expected a rank of 1 or more, or none for no limit")


def replaced(
    terms: Mapping[str, list[tuple[float, Tensor, Tensor]]], max_rank: int | None
) -> tuple[Adapter | None, float]:
    """The sum of the terms ``c b a`` of every module as one adapter of scale 1, and what its compression lost.

    A rank above ``max_rank`` (by default the layer's smaller side, where nothing is lost but rounding) is cut by SVD.
    Singular values within the rounding of the sum are what is left of terms that cancel: dropped, and no loss.

    Tensors on the meta device have no values to be measured: they are cut to the limit, as if nothing cancelled.

    Returns:
        The adapter, None if all sums are zero or empty, and the relative Frobenius error of all cuts together.
    """
    cuts = by_name(lambda parts: _cut(parts, max_rank), terms)
    lost, size = sum(one.lost for one in cuts.values()), sum(one.size for one in cuts.values())
    modules = {name: one.factors for name, one in cuts.items() if one.factors is not None}
    if not modules:
        return None, 0.0
    return Adapter(modules), (lost / size) ** 0.5 if size > 0 else 0.0


class _Cut(NamedTuple):
    """A module's sum at its rank, None for nothing; and the energies of what was lost, and of all of it."""

    factors: Factors | None
    lost: float
    size: float


def _cut(terms: Sequence[tuple[float, Tensor, Tensor]], max_rank: int | None) -> _Cut:
    parts = [part for part in terms if part[0] != 0]  # rank 0 for nothing
    if not parts:
        return _Cut(None, 0.0, 0.0)
    a, b = lowrank.stack(parts)
    lost = size = 0.0
    limit = min(a.shape[1], b.shape[0], max_rank or a.shape[1])
    if a.is_meta:
        a, b = a[:limit], b[:, :limit]
    elif a.shape[0] > limit:
        u, s, vt = lowrank.svd(a, b)
        rounding = torch.finfo(s.dtype).eps * torch.linalg.norm(a) * torch.linalg.norm(b)
        real = int((s > rounding).sum())
        kept = min(limit, real)
        lost = float(s[kept:real].double().square().sum())
        size = float(s[:real].double().square().sum())
        if kept == 0:
            return _Cut(None, lost, size)
        a, b = vt[:kept], u[:, :kept] * s[:kept]
    else:
        size = lowrank.norm(a, b) ** 2
    return _Cut(Factors(a.contiguous(), b.contiguous()), lost, size)


def carried(server: ServerState) -> dict[str, list[tuple[float, Tensor, Tensor]]]:
    """The server's base change as terms for `replaced`, for every module of its adapter."""
    return {name: terms_of(server.base_change, name) for name in server.adapter.modules}


def terms_of(adapter: Adapter | None, name: str) -> list[tuple[float, Tensor, Tensor]]:
    """A module of an adapter as terms for `replaced`; none where it lacks the module."""
    if adapter is None or name not in adapter.modules:
        return []
    factors = adapter.modules[name]
    return [(factors.scale, factors.a, factors.b)]
