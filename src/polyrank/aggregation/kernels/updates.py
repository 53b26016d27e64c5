"""What every kernel asks of an update before it adds it up."""

from __future__ import annotations

import math

from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError
from polyrank.core.state import ClientUpdate


def check_update(update: ClientUpdate, previous: Adapter, *, chooses: bool = False) -> None:
    """Refuse an update that cannot be added to sums of the global adapter's shapes.

    Args:
        update: of a client.
        previous: the global adapter.
        chooses: whether the client may say of which rank indices its rows are.

    Raises:
        AdapterError: the weight is negative or not finite, a module or dense tensor is unknown or has another shape, a
            rank is above the global adapter's, or rank indices are said that cannot be; the client is named.
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
    if update.indices is not None:
        check_indices(update, previous, chooses=chooses)
    for name, tensor in update.adapter.dense.items():
        expected = previous.dense.get(name)
        if expected is None:
            raise AdapterError(f"client {update.client} sent the tensor {name!r}, which the global adapter lacks")
        if tensor.shape != expected.shape:
            raise AdapterError(
                f"client {update.client} sent {name} as {tuple(tensor.shape)}; expected {tuple(expected.shape)}"
            )


def check_indices(update: ClientUpdate, previous: Adapter, *, chooses: bool) -> None:
    """Refuse chosen rank indices that the global adapter lacks, or that are not those of an update's rows.

    Raises:
        AdapterError: the client may not choose, modules are missing or unknown, or indices are not ascending, out of
            range, or of another number than the rows; the client is named.
    """
    if not chooses:
        raise AdapterError(f"client {update.client} chose rank indices, and the method does not ask for that")
    chosen = update.indices or {}
    if chosen.keys() != update.adapter.modules.keys() or not chosen.keys() <= previous.modules.keys():
        raise AdapterError(
            f"client {update.client} chose rank indices of {sorted(chosen)}; expected each of its modules"
        )
    for name, own in chosen.items():
        rank, held = previous.modules[name].rank, update.adapter.modules[name].rank
        if list(own) != sorted(set(own)) or not set(own) <= set(range(rank)) or len(own) != held:
            raise AdapterError(
                f"client {update.client} chose the rank indices {list(own)} of {name} for {held} rows; expected as "
                f"many, ascending, from 0 to {rank - 1}"
            )
