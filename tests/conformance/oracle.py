"""The dense oracle: every method written once more from docs/methods.md, in plain numpy float64, with loops.

Nothing here is shared with the library but the reading of its tensors, so the two can only agree by both being right.
A new method costs a function and a line in `ORACLES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from polyrank.adapter import Adapter
from polyrank.state import ClientUpdate, ServerState

Array = np.ndarray


@dataclass(frozen=True)
class Plain:
    """An adapter in numpy: module -> A, B and scale, and the dense tensors."""

    a: dict[str, Array]
    b: dict[str, Array]
    scale: dict[str, float]
    dense: dict[str, Array]

    def delta(self, module: str) -> Array:
        """``s B A`` in full."""
        return self.scale[module] * (self.b[module] @ self.a[module])


@dataclass(frozen=True)
class Client:
    """A `Plain` adapter and its weight."""

    adapter: Plain
    weight: float

    def rank(self, module: str) -> int:
        return len(self.adapter.a[module])


def plain(adapter: Adapter) -> Plain:
    """The library's adapter as numpy float64."""
    return Plain(
        {name: f.a.double().numpy().copy() for name, f in adapter.modules.items()},
        {name: f.b.double().numpy().copy() for name, f in adapter.modules.items()},
        {name: f.scale for name, f in adapter.modules.items()},
        {name: tensor.double().numpy().copy() for name, tensor in adapter.dense.items()},
    )


def target(updates: Sequence[ClientUpdate]) -> dict[str, Array]:
    """What averaging should mean: ``delta* = sum_k p_k s_k B_k A_k`` of every module, in full."""
    total = sum(update.weight for update in updates)
    out: dict[str, Array] = {}
    for update in updates:
        if update.weight > 0:
            adapter = plain(update.adapter)
            for module in adapter.a:
                out[module] = out.get(module, 0.0) + update.weight / total * adapter.delta(module)
    return out


def relative_errors(updates: Sequence[ClientUpdate], adapter: Adapter) -> dict[str, float]:
    """``|s B A - delta*|_F / |delta*|_F`` of every module, and of all together under ``""``."""
    wanted, found = target(updates), plain(adapter)
    gaps = {module: np.linalg.norm(found.delta(module) - wanted[module]) for module in wanted}
    sizes = {module: np.linalg.norm(wanted[module]) for module in wanted}
    errors = {module: float(gaps[module] / sizes[module]) for module in wanted}
    return errors | {"": math.hypot(*gaps.values()) / math.hypot(*sizes.values())}


# --- kernel 1: one formula per rank index -----------------------------------------------------------------------------

Weigh = Callable[[Client, str], float]


@dataclass(frozen=True)
class Index:
    """One rank index of one factor of one module: ``x_k`` and ``w_k`` of its owners, ``W``, and the previous row."""

    owners: list[tuple[float, int, Array]]  # w_k, r_k, x_{k,j} at the global scale
    donors: list[tuple[float, Array]]  # the clients of the highest rank present; none where their rank is too low
    total: float
    previous: Array

    def sum(self) -> Array:
        out = np.zeros_like(self.previous)
        for weight, _, x in self.owners:
            out = out + weight * x
        return out

    @property
    def owned(self) -> float:
        return sum(weight for weight, _, _ in self.owners)


def examples(client: Client, _module: str) -> float:
    """``w_k`` is the number of examples."""
    return client.weight


def by_index(
    server: ServerState,
    updates: Sequence[ClientUpdate],
    formula: Callable[[Index], Array],
    *,
    weigh: Weigh = examples,
    min_owners: int = 1,
    unowned: Literal["previous", "zero"] = "previous",
) -> Plain:
    """Apply a formula to every row of A and column of B; the weighted mean to dense tensors."""
    out = plain(server.adapter)
    clients = [Client(plain(update.adapter), update.weight) for update in updates if update.weight > 0]
    for module in out.a:
        present = [(client, weigh(client, module)) for client in clients]
        present = [(client, weight) for client, weight in present if weight > 0]
        total = sum(weight for _, weight in present)
        if total == 0:
            continue
        highest = max(client.rank(module) for client, _ in present)
        for j in range(len(out.a[module])):
            owners = [(client, weight) for client, weight in present if client.rank(module) > j]
            if len(owners) < min_owners or (not owners and unowned == "previous"):
                continue
            for side in ("a", "b"):
                rows = []
                for client, weight in owners:
                    if side == "a":
                        x = client.adapter.a[module][j]
                    else:
                        x = client.adapter.b[module][:, j] * (client.adapter.scale[module] / out.scale[module])
                    rows.append((weight, client.rank(module), x))
                donors = [(weight, x) for weight, rank, x in rows if rank == highest]
                previous = out.a[module][j] if side == "a" else out.b[module][:, j]
                value = formula(Index(rows, donors, total, previous.copy()))
                if side == "a":
                    out.a[module][j] = value
                else:
                    out.b[module][:, j] = value
    for name in out.dense:
        senders = [(weigh(client, ""), client) for client in clients if name in client.adapter.dense]
        total = sum(weight for weight, _ in senders)
        if total > 0:
            out.dense[name] = sum(weight / total * client.adapter.dense[name] for weight, client in senders)
    return out


def owners_mean(i: Index) -> Array:
    return i.sum() / i.owned


def fedavg(server: ServerState, updates: Sequence[ClientUpdate]) -> Plain:
    """``sum_k p_k x_k``."""
    return by_index(server, updates, lambda i: i.sum() / i.total)


def zero_padding(
    server: ServerState, updates: Sequence[ClientUpdate], keep_unowned: bool = False, min_owners: int = 0
) -> Plain:
    """``f_j = 0``; the published baseline wipes a row that nobody owns."""
    return by_index(
        server,
        updates,
        lambda i: i.sum() / i.total,
        min_owners=min_owners,
        unowned="previous" if keep_unowned else "zero",
    )


def zero_padding_delta(server: ServerState, updates: Sequence[ClientUpdate], min_owners: int = 1) -> Plain:
    """``previous + sum_{owners} w_k (x_k - previous) / W``: the mean of the changes, 0 for who has no row."""

    def formula(i: Index) -> Array:
        change = np.zeros_like(i.previous)
        for weight, _, x in i.owners:
            change = change + weight / i.total * (x - i.previous)
        return i.previous + change

    return by_index(server, updates, formula, min_owners=min_owners)


def layer_norm(client: Client, module: str) -> float:
    """``|s_k B_k A_k|_F`` of one module; over all modules for ``""``."""
    modules = [module] if module else list(client.adapter.a)
    return math.sqrt(sum(float((client.adapter.delta(name) ** 2).sum()) for name in modules))


def hetlora(
    server: ServerState,
    updates: Sequence[ClientUpdate],
    per_layer: bool = False,
    keep_unowned: bool = False,
    min_owners: int = 0,
) -> Plain:
    """Zero padding under ``w_k = |s_k B_k A_k|_F``: of the client, or of each layer."""
    return by_index(
        server,
        updates,
        lambda i: i.sum() / i.total,
        weigh=layer_norm if per_layer else lambda client, _: layer_norm(client, ""),
        min_owners=min_owners,
        unowned="previous" if keep_unowned else "zero",
    )


def replication(
    server: ServerState,
    updates: Sequence[ClientUpdate],
    donor: Literal["highest", "owners"] = "highest",
    min_owners: int = 1,
) -> Plain:
    """``f_j`` is the donors' weighted mean; who lacks row j is given it."""

    def formula(i: Index) -> Array:
        donors = i.donors if donor == "highest" else [(weight, x) for weight, _, x in i.owners]
        fill = sum(weight * x for weight, x in donors) / sum(weight for weight, _ in donors)
        return (i.sum() + (i.total - i.owned) * fill) / i.total

    return by_index(server, updates, formula, min_owners=min_owners)


def owner_mean(server: ServerState, updates: Sequence[ClientUpdate], min_owners: int = 1) -> Plain:
    """``sum_{own} w_k x_{k,j} / W(j)``."""
    return by_index(server, updates, owners_mean, min_owners=min_owners)


def tempered(server: ServerState, updates: Sequence[ClientUpdate], gamma: float = 0.5, min_owners: int = 1) -> Plain:
    """``(1 - theta) previous + theta * owners' mean``, ``theta = (W(j) / W) ** gamma``."""

    def formula(i: Index) -> Array:
        theta = (i.owned / i.total) ** gamma
        return (1 - theta) * i.previous + theta * owners_mean(i)

    return by_index(server, updates, formula, min_owners=min_owners)


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Oracle:
    """How a method is checked.

    Args:
        expected: server, updates, options -> the adapter that the method must return.
        variants: the options to try; every option of the method occurs in one of them.
        by: "factors" where A and B themselves are defined; "delta" for methods of products, whose A and B are one of
            many pairs with the same product.
    """

    expected: Callable[..., Plain]
    variants: Sequence[Mapping[str, object]] = field(default=({},))
    by: Literal["factors", "delta"] = "factors"


_MIN_OWNERS: tuple[dict[str, object], ...] = ({}, {"min_owners": 0}, {"min_owners": 2})

ORACLES: Mapping[str, Oracle] = {
    "fedavg": Oracle(fedavg),
    "zero_padding": Oracle(zero_padding, ({}, {"keep_unowned": True}, {"min_owners": 2})),
    "zero_padding_delta": Oracle(zero_padding_delta, _MIN_OWNERS),
    "hetlora": Oracle(
        hetlora,
        ({}, {"per_layer": True}, {"keep_unowned": True}, {"per_layer": True, "keep_unowned": True}, {"min_owners": 2}),
    ),
    "replication": Oracle(replication, (*_MIN_OWNERS, {"donor": "owners"}, {"donor": "owners", "min_owners": 0})),
    "owner_mean": Oracle(owner_mean, _MIN_OWNERS),
    "tempered": Oracle(tempered, (*_MIN_OWNERS, {"gamma": 0.0}, {"gamma": 0.0, "min_owners": 0}, {"gamma": 2.0})),
}
