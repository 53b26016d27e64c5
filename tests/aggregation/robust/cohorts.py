"""Rounds with hostile clients, for the tests of robust rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from polyrank.core.adapter import Adapter
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import Member, Round, make

RANKS = (1, 3, 6)
"""Levels; the global rank is 7, so that one rank index has no owner at all."""


def cohort(owners: Mapping[int, int], seed: int = 0, dtype: torch.dtype = torch.float64) -> Round:
    """So many clients of each rank, of different weights and scales, in an order that is not that of their names."""
    ranks = [rank for rank, count in owners.items() for _ in range(count)]
    numbers = np.random.default_rng(seed)
    members = [
        Member.of(f"c{name:02d}", float(numbers.integers(1, 30)), ranks[i], float(numbers.choice([0.5, 1.0, 2.0, 3.0])))
        for i, name in enumerate(numbers.permutation(len(ranks)))
    ]
    return make(members, 7, dtype, seed=seed)


def affected(it: Round, clients: Sequence[str], change: Callable[[torch.Tensor], torch.Tensor]) -> Round:
    """The round with every number of these clients changed."""
    return it.with_updates(
        lambda update: replace(update, adapter=update.adapter.map(change)) if update.client in clients else update
    )


def names(it: Round, rank: int | None = None) -> list[str]:
    """The clients, or those of a rank, sorted."""
    return sorted(u.client for u in it.updates if rank is None or u.adapter.rank == rank)


def at_scale(adapter: Adapter, server: ServerState) -> dict[str, np.ndarray]:
    """The tensors in float64, B at the global scale: worked out here, not by the library."""
    found = {}
    for name, factors in adapter.modules.items():
        found[f"{name}.a"] = factors.a.double().numpy()
        found[f"{name}.b"] = factors.b.double().numpy() * (factors.scale / server.adapter.modules[name].scale)
    return found | {name: tensor.double().numpy() for name, tensor in adapter.dense.items()}


def rows_of(it: Round, name: str, j: int) -> np.ndarray:
    """The owners' rows of one rank index of a factor ``module.a`` or ``module.b``, ``(n, d)``."""
    found = []
    for update in sorted(it.updates, key=lambda one: one.client):
        tensor = at_scale(update.adapter, it.server)[name]
        rows = tensor if name.endswith(".a") else tensor.T
        if j < len(rows):
            found.append(rows[j])
    return np.array(found)


def alone(updates: Sequence[ClientUpdate]) -> list[ClientUpdate]:
    """The updates with a weight of 1 each."""
    return [replace(update, weight=1.0) for update in updates]
