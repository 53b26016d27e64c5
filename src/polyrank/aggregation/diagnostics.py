"""What aggregation lost and where the adapters are going, measured from a round's updates and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polyrank.core import lowrank
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.parallel import over_cores
from polyrank.core.state import ClientUpdate, ServerState

Terms = list[tuple[float, Tensor, Tensor]]


@dataclass(frozen=True)
class AggregationError:
    """``|change - delta*|_F / |delta*|_F`` for ``delta* = sum_k p_k s_k B_k A_k``, in all and per module."""

    total: float
    modules: Mapping[str, float]


def aggregation_error(
    updates: Sequence[ClientUpdate],
    adapter: Adapter,
    base_change: Adapter | None = None,
    started_from: Adapter | None = None,
) -> AggregationError:
    """How far the global model's change is from the weighted mean of the clients' products, relative to that mean.

    The change is ``adapter + base_change - started_from``; without base changes it is ``s B A``. ``p_k`` are the
    updates' weights divided by their sum, whatever weights the method itself used; a module that some clients lack is
    averaged over those who have it. Cost per module: Gram matrices of the stacked factors, or the dense layer where
    that is smaller; float64. A target of exactly 0 gives 0 where the change agrees and infinity where it does not.

    Args:
        updates: with at least one weight above 0.
        adapter: the new global adapter.
        base_change: the new one beside it.
        started_from: the weighted mean of the base changes that the clients were sent.
    """

    def gap_and_size(name: str) -> tuple[float, float]:
        owners = [(u.weight, f) for u in updates if u.weight > 0 and (f := u.adapter.modules.get(name)) is not None]
        total = sum(weight for weight, _ in owners)
        wanted: Terms = [(weight / total * f.scale, f.a.double(), f.b.double()) for weight, f in owners]
        found = _terms(adapter, name) + _terms(base_change, name) + _terms(started_from, name, -1.0)
        gap = lowrank.norm(*lowrank.stack([*found, *((-c, a, b) for c, a, b in wanted)]))
        return gap, lowrank.norm(*lowrank.stack(wanted)) if wanted else 0.0

    measured = over_cores(gap_and_size, adapter.modules)
    errors = {name: _ratio(gap, size) for name, (gap, size) in zip(adapter.modules, measured, strict=True)}
    difference, target = (sum(own[i] ** 2 for own in measured) for i in (0, 1))
    return AggregationError(_ratio(difference**0.5, target**0.5), errors)


def owners_weight(
    updates: Sequence[ClientUpdate], rank: int, indices: Mapping[str, Mapping[str, Tensor]] | None = None
) -> list[float]:
    """Share of the round's weight that owns rank index j, for j < rank: ``W(j) / W``, averaged over the modules.

    Args:
        updates: those that counted.
        rank: of the global adapter.
        indices: client -> module -> its rank indices, where they are not the first ones.
    """
    total = sum(update.weight for update in updates)
    shares = torch.zeros(rank, dtype=torch.float64)
    if total == 0:
        return shares.tolist()
    for update in updates:
        modules, own = update.adapter.modules, (indices or {}).get(update.client, {})
        for name, factors in modules.items():
            held = own.get(name, slice(factors.rank))
            shares[held] += update.weight / total / len(modules)
    return [float(share) for share in shares]


def row_energy(adapter: Adapter) -> list[float]:
    """``(s |b_j| |a_j|)^2`` of every rank index j, summed over the modules: what the index alone contributes.

    ``a_j`` is row j of A and ``b_j`` column j of B. Indices overlap, so their energies do not add up to the update's.
    """
    energy = torch.zeros(adapter.rank, dtype=torch.float64)
    for f in adapter.modules.values():
        a, b = f.a.double().square().sum(dim=1), f.b.double().square().sum(dim=0)
        energy[: f.rank] += f.scale**2 * a * b
    return [float(value) for value in energy]


@dataclass(frozen=True)
class Spectrum:
    """How a global update spreads over directions, averaged over the modules that are not zero.

    Args:
        effective_rank: ``exp`` of the entropy of the energies (see `lowrank.effective_rank`).
        energy_in_lowest: share of the energy in the first singular values, as many as the lowest rank of any client;
            near 1 the rank has collapsed: the higher ranks carry nothing.
    """

    effective_rank: float
    energy_in_lowest: float


def spectrum(adapter: Adapter, base_change: Adapter | None, lowest: int) -> Spectrum:
    """The spectrum of the global update, adapter and base change together; (0, 0) for an update of zero."""

    def of(name: str) -> tuple[float, float] | None:
        singular = lowrank.singular_values(*lowrank.stack(_terms(adapter, name) + _terms(base_change, name)))
        energy = singular.double().square()
        if float(energy.sum()) == 0:
            return None
        return lowrank.effective_rank(singular), float(energy[:lowest].sum() / energy.sum())

    found = [own for own in over_cores(of, adapter.modules) if own is not None]
    ranks, shares = [rank for rank, _ in found], [share for _, share in found]
    if not ranks:
        return Spectrum(0.0, 0.0)
    return Spectrum(sum(ranks) / len(ranks), sum(shares) / len(shares))


def drift(updates: Sequence[ClientUpdate], started: Mapping[str, Adapter]) -> float:
    """How far clients go from what they were sent: ``|s_k B_k A_k - start_k| / |s_k B_k A_k|``, weighted mean.

    Norms are over all layers. 0: nothing learned; 1: as far as the whole update is long.
    """
    total = sum(update.weight for update in updates)

    def weighted(update: ClientUpdate) -> float:
        gap = size = 0.0
        for name, factors in update.adapter.modules.items():
            mine, begun = _term(factors), _term(started[update.client].modules[name], -1.0)
            gap += lowrank.norm(*lowrank.stack([mine, begun])) ** 2
            size += factors.norm() ** 2
        return update.weight / total * (_ratio(gap**0.5, size**0.5) if update.weight > 0 else 0.0)

    return sum(over_cores(weighted, updates))


def diagnose(
    updates: Sequence[ClientUpdate],
    started: Mapping[str, Adapter],
    started_from: Adapter | None,
    after: ServerState,
    lowest: int,
) -> dict[str, Any]:
    """All of the above as metrics of a round.

    Args:
        updates: those that counted, with at least one weight above 0.
        started: client -> the adapter it was sent.
        started_from: the weighted mean of the base changes that the clients were sent.
        after: the server after the round.
        lowest: the lowest rank of any client.
    """
    error = aggregation_error(updates, after.adapter, after.base_change, started_from)
    shape = spectrum(after.adapter, after.base_change, lowest)
    return {
        "aggregation/error": error.total,
        "aggregation/error_by_module": dict(error.modules),
        "rank/effective": shape.effective_rank,
        "rank/energy_in_lowest": shape.energy_in_lowest,
        "clients/drift": drift(updates, started),
    }


def _terms(adapter: Adapter | None, name: str, sign: float = 1.0) -> Terms:
    if adapter is None or name not in adapter.modules:
        return []
    return [_term(adapter.modules[name], sign)]


def _term(factors: Factors, sign: float = 1.0) -> tuple[float, Tensor, Tensor]:
    return sign * factors.scale, factors.a.double(), factors.b.double()


def _ratio(gap: float, size: float) -> float:
    if size > 0:
        return gap / size
    return 0.0 if gap == 0 else float("inf")
