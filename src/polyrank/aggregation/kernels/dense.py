"""The weighted mean of dense tensors over the clients that sent them; the previous value where nobody did."""

from __future__ import annotations

import torch
from torch import Tensor

from polyrank.aggregation.sums import Sums
from polyrank.core.adapter import Adapter
from polyrank.core.lowrank import wide
from polyrank.core.state import ClientUpdate


def empty(previous: Adapter) -> dict[str, Tensor]:
    """A sum and a weight for each dense tensor of the server's adapter, named."""
    sums = {_sum(name): torch.zeros_like(tensor, dtype=wide(tensor.dtype)) for name, tensor in previous.dense.items()}
    return sums | {_weight(name): torch.zeros(1, dtype=torch.float64) for name in previous.dense}


def add(sums: Sums, update: ClientUpdate, weight: float) -> None:
    """Add one client's tensors, in place."""
    for name, tensor in update.adapter.dense.items():
        total = sums.tensors[_sum(name)]
        total.add_(tensor, alpha=min(weight, torch.finfo(total.dtype).max))
        sums.tensors[_weight(name)] += weight


def means(sums: Sums, previous: Adapter) -> dict[str, Tensor]:
    """The means, in the previous dtypes."""
    found: dict[str, Tensor] = {}
    for name, before in previous.dense.items():
        weight = float(sums.tensors[_weight(name)])
        found[name] = (sums.tensors[_sum(name)] / weight).to(before.dtype) if weight > 0 else before
    return found


def _sum(name: str) -> str:
    return f"dense/{name}/sum"


def _weight(name: str) -> str:
    return f"dense/{name}/weight"
