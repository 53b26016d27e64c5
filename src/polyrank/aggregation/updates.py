"""What every accumulator does with an update before and beside its factors: check it, and average its dense tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polyrank.adapter import Adapter
from polyrank.errors import AdapterError
from polyrank.lowrank import wide
from polyrank.state import ClientUpdate


def check_update(update: ClientUpdate, previous: Adapter) -> None:
    """Refuse an update that cannot be added to sums of the global adapter's shapes.

    Raises:
        AdapterError: the weight is negative or not finite, a module or dense tensor is unknown or has another shape, or
            a rank is above the global adapter's; the client is named.
    """
    if not 0 <= update.weight < math.inf:
        raise AdapterError(f"client {update.client} has the weight {update.weight}; expected a number of 0 or more")
    for name, factors in update.adapter.modules.items():
        known = previous.modules.get(name)
        if known is None:
            raise AdapterError(f"client {update.client} sent the module {name!r}, which the global adapter lacks")
        if (factors.d_out, factors.d_in) != (known.d_out, known.d_in):
            raise AdapterError(
                f"client {update.client} sent a {factors.d_out} x {factors.d_in} update for {name}; "
                f"the global adapter's is {known.d_out} x {known.d_in}"
            )
        if factors.rank > known.rank:
            raise AdapterError(
                f"client {update.client} sent rank {factors.rank} for {name}; the global adapter has rank {known.rank}"
            )
    for name, tensor in update.adapter.dense.items():
        expected = previous.dense.get(name)
        if expected is None:
            raise AdapterError(f"client {update.client} sent the tensor {name!r}, which the global adapter lacks")
        if tensor.shape != expected.shape:
            raise AdapterError(
                f"client {update.client} sent {name} as {tuple(tensor.shape)}; expected {tuple(expected.shape)}"
            )


class DenseMean:
    """The weighted mean of dense tensors over the clients that sent them; the previous value where nobody did."""

    def __init__(self, previous: Adapter) -> None:
        self._previous = previous.dense
        self._sums = {name: torch.zeros_like(t, dtype=wide(t.dtype)) for name, t in previous.dense.items()}
        self._weights = dict.fromkeys(previous.dense, 0.0)

    def add(self, update: ClientUpdate, weight: float) -> None:
        """Add one client's tensors."""
        for name, tensor in update.adapter.dense.items():
            total = self._sums[name]
            total.add_(tensor, alpha=min(weight, torch.finfo(total.dtype).max))
            self._weights[name] += weight

    def merge(self, other: DenseMean) -> None:
        """Add what another one has seen."""
        for name, total in self._sums.items():
            total.add_(other._sums[name])
            self._weights[name] += other._weights[name]

    def finish(self) -> dict[str, Tensor]:
        """The means, in the previous dtypes."""
        return {
            name: (total / self._weights[name]).to(self._previous[name].dtype)
            if self._weights[name] > 0
            else self._previous[name]
            for name, total in self._sums.items()
        }
