"""What every kernel asks of an update before it adds it up."""

from __future__ import annotations

import math

from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate


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
