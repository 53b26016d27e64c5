"""What aggregation lost, measured from the updates of a round and the adapter that came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from polyrank import lowrank
from polyrank.adapter import Adapter
from polyrank.state import ClientUpdate


@dataclass(frozen=True)
class AggregationError:
    """``|s B A - delta*|_F / |delta*|_F`` for ``delta* = sum_k p_k s_k B_k A_k``, in all and per module."""

    total: float
    modules: Mapping[str, float]


def aggregation_error(updates: Sequence[ClientUpdate], adapter: Adapter) -> AggregationError:
    """How far the global adapter is from the weighted mean of the clients' products, relative to that mean.

    ``p_k`` are the updates' weights divided by their sum, whatever weights the method itself used. Cost per module:
    Gram matrices of the stacked factors, or the dense layer where that is smaller; float64. A target of exactly 0
    gives 0 where the adapter agrees and infinity where it does not.
    """
    total_weight = sum(update.weight for update in updates)
    errors: dict[str, float] = {}
    difference = target = 0.0
    for name, factors in adapter.modules.items():
        terms = [
            (update.weight / total_weight * mine.scale, mine.a, mine.b)
            for update in updates
            if update.weight > 0 and (mine := update.adapter.modules.get(name)) is not None
        ]
        left = (factors.a.double() * factors.scale, factors.b)
        gap = lowrank.difference_norm(left, terms)
        size = lowrank.norm(*lowrank.stack((c, a.double(), b.double()) for c, a, b in terms)) if terms else 0.0
        errors[name] = _ratio(gap, size)
        difference += gap**2
        target += size**2
    return AggregationError(_ratio(difference**0.5, target**0.5), errors)


def _ratio(gap: float, size: float) -> float:
    if size > 0:
        return gap / size
    return 0.0 if gap == 0 else float("inf")


def owners_weight(updates: Sequence[ClientUpdate], rank: int) -> list[float]:
    """Share of the round's weight that owns rank index j, for j < rank: ``W(j) / W``, averaged over the modules."""
    total = sum(update.weight for update in updates)
    shares = torch.zeros(rank, dtype=torch.float64)
    if total == 0:
        return shares.tolist()
    for update in updates:
        modules = update.adapter.modules.values()
        for factors in modules:
            shares[: factors.rank] += update.weight / total / len(modules)
    return [float(share) for share in shares]
