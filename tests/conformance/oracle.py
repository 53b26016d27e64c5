"""The dense oracle: every method written once more from docs/methods.md, in plain numpy float64, with loops.

Nothing here is shared with the library but the reading of its tensors, so the two can only agree by both being right.
A new method costs a function and a line in `ORACLES`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from polyrank.aggregation import Aggregate
from polyrank.core.adapter import Adapter
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import chosen_indices

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
    name: str = ""

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


@dataclass(frozen=True)
class Model:
    """The server after a round.

    Args:
        adapter: its adapter; A and B may be any pair of the right product for methods of products.
        base: its base change in full, for every module, 0 where there is none.
        metrics: what the method must report.
    """

    adapter: Plain
    base: dict[str, Array]
    metrics: dict[str, float] = field(default_factory=dict)

    def change(self, module: str) -> Array:
        """What the global model adds to the frozen base."""
        return self.adapter.delta(module) + self.base[module]


def dense_base(adapter: Adapter, base_change: Adapter | None) -> dict[str, Array]:
    """A base change in full, for every module of the adapter."""
    out = {name: np.zeros((f.d_out, f.d_in)) for name, f in adapter.modules.items()}
    if base_change is not None:
        out |= {name: plain(base_change).delta(name) for name in base_change.modules}
    return out


def model(state: ServerState | Aggregate) -> Model:
    """The library's result, or the state before, as a `Model`."""
    metrics = dict(state.metrics) if isinstance(state, Aggregate) else {}
    return Model(plain(state.adapter), dense_base(state.adapter, state.base_change), metrics)


def clients_of(updates: Sequence[ClientUpdate]) -> list[Client]:
    """Those that count, in the order of their names."""
    return [
        Client(plain(u.adapter), u.weight, u.client) for u in sorted(updates, key=lambda u: u.client) if u.weight > 0
    ]


def target(updates: Sequence[ClientUpdate]) -> dict[str, Array]:
    """What averaging should mean: ``delta* = sum_k p_k s_k B_k A_k`` of every module, in full.

    A module that some clients lack is averaged over those who have it.
    """
    clients = clients_of(updates)
    out: dict[str, Array] = {}
    for module in {name: None for client in clients for name in client.adapter.a}:
        owners = [client for client in clients if module in client.adapter.a]
        total = sum(client.weight for client in owners)
        out[module] = sum(client.weight / total * client.adapter.delta(module) for client in owners)
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
Draw = Callable[[Client, str], list[int]]
"""Which rank indices a client has in a module, in the order of its rows."""
Align = Literal["none", "rotation", "rectangular"]


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
    align: Align = "none",
    sides: Sequence[str] = ("a", "b"),
    draw: Draw = lambda client, module: list(range(client.rank(module))),
    sketched: bool = False,
) -> Plain:
    """Apply a formula to every row of A and column of B; the weighted mean to dense tensors.

    A sketch of r of R rank indices was trained at R / r times the scale, which is no part of what comes back.
    """
    out = plain(server.adapter)
    clients = [Client(rotated(c.adapter, out, align), c.weight, c.name) for c in clients_of(updates)]
    for module in out.a:
        present = [(client, weigh(client, module)) for client in clients if module in client.adapter.a]
        present = [(client, weight) for client, weight in present if weight > 0]
        total = sum(weight for _, weight in present)
        if total == 0:
            continue
        highest = max(client.rank(module) for client, _ in present)
        held = {client.name: draw(client, module) for client, _ in present}
        whole = len(out.a[module])
        for j in range(whole):
            owners = [(client, weight) for client, weight in present if j in held[client.name]]
            if len(owners) < min_owners or (not owners and unowned == "previous"):
                continue
            for side in sides:
                rows = []
                for client, weight in owners:
                    row = held[client.name].index(j)
                    if side == "a":
                        x = client.adapter.a[module][row]
                    else:
                        scale = out.scale[module] * (whole / client.rank(module) if sketched else 1)
                        x = client.adapter.b[module][:, row] * (client.adapter.scale[module] / scale)
                    rows.append((weight, client.rank(module), x))
                donors = [(weight, x) for weight, rank, x in rows if rank == highest]
                previous = out.a[module][j] if side == "a" else out.b[module][:, j]
                value = formula(Index(rows, donors, total, previous.copy()))
                if side == "a":
                    out.a[module][j] = value
                else:
                    out.b[module][:, j] = value
    out.dense.update(dense_means(out, clients, weigh))
    return out


def dense_means(before: Plain, clients: Sequence[Client], weigh: Weigh = examples) -> dict[str, Array]:
    """The weighted mean of every dense tensor over the clients that sent it."""
    out = dict(before.dense)
    for name in out:
        senders = [(weigh(client, ""), client) for client in clients if name in client.adapter.dense]
        total = sum(weight for weight, _ in senders)
        if total > 0:
            out[name] = sum(weight / total * client.adapter.dense[name] for weight, client in senders)
    return out


def rotated(adapter: Plain, reference: Plain, how: Align) -> Plain:
    """``B_k Q, Q^T A_k`` with ``Q = U V^T`` from ``A_k A_ref^T = U S V^T``; Q is ``r_k x r_k`` or ``r_k x R``."""
    if how == "none":
        return adapter
    a, b = dict(adapter.a), dict(adapter.b)
    for module in a:
        wanted = reference.a[module][: len(a[module])] if how == "rotation" else reference.a[module]
        u, _, vt = np.linalg.svd(adapter.a[module] @ wanted.T, full_matrices=False)
        q = u @ vt
        a[module], b[module] = q.T @ adapter.a[module], adapter.b[module] @ q
    return Plain(a, b, dict(adapter.scale), dict(adapter.dense))


def owners_mean(i: Index) -> Array:
    return i.sum() / i.owned


def fedavg(server: ServerState, updates: Sequence[ClientUpdate], align: Align = "none") -> Plain:
    """``sum_k p_k x_k``."""
    return by_index(server, updates, lambda i: i.sum() / i.total, align=align)


def zero_padding(
    server: ServerState,
    updates: Sequence[ClientUpdate],
    keep_unowned: bool = False,
    min_owners: int = 0,
    align: Align = "none",
) -> Plain:
    """``f_j = 0``; the published baseline wipes a row that nobody owns."""
    return by_index(
        server,
        updates,
        lambda i: i.sum() / i.total,
        min_owners=min_owners,
        unowned="previous" if keep_unowned else "zero",
        align=align,
    )


def zero_padding_delta(
    server: ServerState, updates: Sequence[ClientUpdate], min_owners: int = 1, align: Align = "none"
) -> Plain:
    """``previous + sum_{owners} w_k (x_k - previous) / W``: the mean of the changes, 0 for who has no row."""

    def formula(i: Index) -> Array:
        change = np.zeros_like(i.previous)
        for weight, _, x in i.owners:
            change = change + weight / i.total * (x - i.previous)
        return i.previous + change

    return by_index(server, updates, formula, min_owners=min_owners, align=align)


def layer_norm(client: Client, module: str) -> float:
    """``|s_k B_k A_k|_F`` of one module; over all modules for ``""``."""
    modules = [module] if module else list(client.adapter.a)
    return math.sqrt(sum(float((client.adapter.delta(name) ** 2).sum()) for name in modules))


def hetlora(
    server: ServerState,
    updates: Sequence[ClientUpdate],
    *,
    per_layer: bool = False,
    keep_unowned: bool = False,
    min_owners: int = 0,
    align: Align = "none",
) -> Plain:
    """Zero padding under ``w_k = |s_k B_k A_k|_F``: of the client, or of each layer."""
    return by_index(
        server,
        updates,
        lambda i: i.sum() / i.total,
        weigh=layer_norm if per_layer else lambda client, _: layer_norm(client, ""),
        min_owners=min_owners,
        unowned="previous" if keep_unowned else "zero",
        align=align,
    )


def replication(
    server: ServerState,
    updates: Sequence[ClientUpdate],
    donor: Literal["highest", "owners"] = "highest",
    min_owners: int = 1,
    align: Align = "none",
) -> Plain:
    """``f_j`` is the donors' weighted mean; who lacks row j is given it."""

    def formula(i: Index) -> Array:
        donors = i.donors if donor == "highest" else [(weight, x) for weight, _, x in i.owners]
        fill = sum(weight * x for weight, x in donors) / sum(weight for weight, _ in donors)
        return (i.sum() + (i.total - i.owned) * fill) / i.total

    return by_index(server, updates, formula, min_owners=min_owners, align=align)


def owner_mean(
    server: ServerState, updates: Sequence[ClientUpdate], min_owners: int = 1, align: Align = "none"
) -> Plain:
    """``sum_{own} w_k x_{k,j} / W(j)``."""
    return by_index(server, updates, owners_mean, min_owners=min_owners, align=align)


def drawn(server: ServerState) -> Draw:
    """Sets that are drawn from (seed, round, client): numpy's choice under a seed of SHA-256, see docs/methods.md."""

    def of(client: Client, module: str) -> list[int]:
        words = (server.seed, "rank indices", server.round + 1, client.name)
        text = "\x1f".join(("str:" if isinstance(word, str) else "int:") + str(word) for word in words)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") // 2
        whole = len(server.adapter.modules[module].a)
        return sorted(np.random.default_rng(seed).choice(whole, size=client.rank(module), replace=False).tolist())

    return of


def fslora(server: ServerState, updates: Sequence[ClientUpdate]) -> Plain:
    """``previous + sum_k p_k mask_k (x_k - previous)``, over all clients."""

    def formula(i: Index) -> Array:
        change = np.zeros_like(i.previous)
        for weight, _, x in i.owners:
            change = change + weight / i.total * (x - i.previous)
        return i.previous + change

    return by_index(server, updates, formula, draw=drawn(server), sketched=True)


def fed_plora(server: ServerState, updates: Sequence[ClientUpdate]) -> Plain:
    """``sum_{own} w_k x_{k,j} / W(j)`` for those that drew j."""
    return by_index(server, updates, owners_mean, draw=drawn(server))


def tempered(
    server: ServerState,
    updates: Sequence[ClientUpdate],
    gamma: float = 0.5,
    min_owners: int = 1,
    align: Align = "none",
) -> Plain:
    """``(1 - theta) previous + theta * owners' mean``, ``theta = (W(j) / W) ** gamma``."""

    def formula(i: Index) -> Array:
        theta = (i.owned / i.total) ** gamma
        return (1 - theta) * i.previous + theta * owners_mean(i)

    return by_index(server, updates, formula, min_owners=min_owners, align=align)


def validated(
    server: ServerState,
    updates: Sequence[ClientUpdate],
    sharpness: float = 1.0,
    gamma: float = 0.5,
    min_owners: int = 1,
    *,
    choose: bool = True,  # noqa: ARG001  # among several; this is the one of the method's own gamma
) -> Plain:
    """`tempered` with ``v_k = w_k exp(-sharpness (L_k - min L))``."""
    judged = []
    for update in updates:
        assert update.excess is not None
        judged.append(replace(update, weight=update.weight / math.exp(sharpness * update.excess)))
    return tempered(server, judged, gamma, min_owners)


def shrinkage(server: ServerState, updates: Sequence[ClientUpdate], min_owners: int = 1) -> Plain:
    """``previous + theta (owners' mean - previous)``, ``theta = max(0, 1 - v S / C)``.

    C: mean square of the mean change of the row; S: sum of the squared shares of its owners; v: sums of the owners'
    weighted squared deviations from their mean (per entry) over sums of ``1 - S``, over rows of two owners or more,
    whether they may move or not. Both are sums over pairs of owners, ``sum_kl s_k s_l (x_k - x_l)^2 / 2`` and
    ``sum_{k != l} s_k s_l``, which says the same without a difference of large numbers.
    """
    out = plain(server.adapter)
    clients = [client for client in clients_of(updates) if client.weight > 0]

    def row(adapter: Plain, module: str, side: str, j: int, scale: float) -> Array:
        if side == "a":
            return adapter.a[module][j]
        return adapter.b[module][:, j] * (adapter.scale[module] / scale)

    for module in out.a:
        for side in ("a", "b"):
            places = {}
            deviations = freedom = 0.0
            for j in range(len(out.a[module])):
                owners = [c for c in clients if module in c.adapter.a and c.rank(module) > j]
                if not owners:
                    continue
                total = sum(c.weight for c in owners)
                rows = [(c.weight / total, row(c.adapter, module, side, j, out.scale[module])) for c in owners]
                mean = sum(share * x for share, x in rows)
                squared = sum(share**2 for share, _ in rows)
                for k, (s_k, x_k) in enumerate(rows):
                    for s_l, x_l in rows[:k]:
                        deviations += s_k * s_l * np.mean((x_k - x_l) ** 2)
                        freedom += 2 * s_k * s_l
                if len(owners) >= min_owners:
                    places[j] = (mean, squared)
            variance = deviations / freedom if freedom > 0 else 0.0
            for j, (mean, squared) in places.items():
                previous = row(out, module, side, j, out.scale[module]).copy()
                size = np.mean((mean - previous) ** 2)
                theta = max(0.0, 1 - variance * squared / size) if size > 0 else 0.0
                value = previous + theta * (mean - previous)
                if side == "a":
                    out.a[module][j] = value
                else:
                    out.b[module][:, j] = value
    out.dense.update(dense_means(out, clients))
    return out


def rb_lora(server: ServerState, updates: Sequence[ClientUpdate], min_owners: int = 1) -> Plain:
    """As owner_mean; the product is then factored anew, which does not change it."""
    return owner_mean(server, updates, min_owners)


# --- kernel 2: full matrices ------------------------------------------------------------------------------------------

NOTHING = 1e-9
"""Singular values below this share of what was added up are what rounding leaves of 0."""


def best(matrix: Array, rank: int) -> Array:
    """The best approximation of a rank: Eckart and Young."""
    u, s, vt = np.linalg.svd(matrix)
    out = np.zeros_like(matrix)
    for j in range(min(rank, len(s))):
        out = out + s[j] * np.outer(u[:, j], vt[j])
    return out


def in_form(matrices: Mapping[str, Array], before: Plain, dense: dict[str, Array]) -> Plain:
    """The best approximations at the ranks and scales of an adapter: ``A = V^T``, ``B = U S / s``."""
    a, b = {}, {}
    for module, matrix in matrices.items():
        u, s, vt = np.linalg.svd(matrix)
        rank = min(len(before.a[module]), len(s))
        a[module], b[module] = vt[:rank], u[:, :rank] * s[:rank] / before.scale[module]
    return Plain(a, b, dict(before.scale), dense)


def compressed(
    base: Mapping[str, Array], max_rank: int | None, sizes: Mapping[str, float]
) -> tuple[dict[str, Array], dict[str, float]]:
    """Every matrix cut to ``max_rank``, and the relative error of all cuts together.

    Args:
        base: by module.
        max_rank: None for no cut.
        sizes: norm of what each was added up from.
    """
    lost = size = 0.0
    out = {}
    for module, matrix in base.items():
        s = np.linalg.svd(matrix, compute_uv=False)
        s = s[s > NOTHING * sizes[module]]
        kept = len(s) if max_rank is None else max_rank
        out[module] = best(matrix, kept)
        lost += float((s[kept:] ** 2).sum())
        size += float((s**2).sum())
    return out, {"compression_error": math.sqrt(lost / size) if size else 0.0}


def _sizes(server: ServerState, updates: Sequence[ClientUpdate]) -> dict[str, float]:
    """Norms of all that a round adds up."""
    now = model(server)
    return {
        module: float(np.linalg.norm(now.base[module]) + np.linalg.norm(now.adapter.delta(module)))
        + sum(float(np.linalg.norm(c.adapter.delta(module))) for c in clients_of(updates) if module in c.adapter.a)
        for module in now.base
    }


def _emptied(before: Plain, modules: Mapping[str, Array], dense: dict[str, Array]) -> Plain:
    """A fresh adapter, whose product is 0, for the modules that went into the base change."""
    b = {name: np.zeros_like(x) if name in modules else x for name, x in before.b.items()}
    return Plain(dict(before.a), b, dict(before.scale), dense)


def flora(server: ServerState, updates: Sequence[ClientUpdate], max_rank: int | None = None) -> Model:
    """``base += delta*``."""
    now, clients = model(server), clients_of(updates)
    if not clients:
        return now
    mean = target(updates)
    base = {module: now.base[module] + mean.get(module, 0.0) for module in now.base}
    base, metrics = compressed(base, max_rank, _sizes(server, updates))
    return Model(_emptied(now.adapter, mean, dense_means(now.adapter, clients)), base, metrics)


def flexlora(
    server: ServerState, updates: Sequence[ClientUpdate], balanced: bool = False, compress: float | None = None
) -> Model:
    """``trunc_R(delta*)``; the options change neither the product nor, at tolerances of rounding, the result."""
    del balanced, compress
    now, clients = model(server), clients_of(updates)
    if not clients:
        return now
    return Model(in_form(target(updates), now.adapter, dense_means(now.adapter, clients)), now.base)


def raflora(server: ServerState, updates: Sequence[ClientUpdate]) -> Model:
    """``trunc_R(sum_k sum_j w_k / W(j) s_k B_k[:, j] A_k[j, :])``, one outer product after the other."""
    now, clients = model(server), clients_of(updates)
    if not clients:
        return now
    sums = {}
    for module, zero in dense_base(server.adapter, None).items():
        sums[module] = zero
        for client in clients:
            adapter = client.adapter
            for j in range(client.rank(module)):
                owned = sum(other.weight for other in clients if other.rank(module) > j)
                product = adapter.scale[module] * np.outer(adapter.b[module][:, j], adapter.a[module][j])
                sums[module] = sums[module] + client.weight / owned * product
    return Model(in_form(sums, now.adapter, dense_means(now.adapter, clients)), now.base)


def spectral(server: ServerState, updates: Sequence[ClientUpdate], noise: float | None = None) -> Model:
    """``trunc_p(delta*)``, p counted by the threshold of Gavish and Donoho; the rest has the product 0."""
    now, clients = model(server), clients_of(updates)
    if not clients:
        return now
    cut, ranks, means = {}, [], target(updates)
    for module, mean in means.items():
        s = np.linalg.svd(mean, compute_uv=False)
        m, n = sorted(mean.shape)
        if noise is None:
            omega = 0.56 * (m / n) ** 3 - 0.95 * (m / n) ** 2 + 1.82 * (m / n) + 1.43
            real = [value for value in s if value > NOTHING * s[0]]
            limit = omega * np.median(real) if real else 0.0
        else:
            inside = 2 * (m / n + 1) + 8 * (m / n) / (m / n + 1 + math.sqrt((m / n) ** 2 + 14 * m / n + 1))
            limit = math.sqrt(inside * n) * noise
        stacked = sum(client.rank(module) for client in clients)
        above = sum(1 for value in s[:stacked] if value > limit and value > NOTHING * s[0])
        p = min(max(above, 1), len(now.adapter.a[module]))
        ranks.append(p)
        cut[module] = best(mean, p)
    adapter = in_form(cut, now.adapter, dense_means(now.adapter, clients))
    return Model(adapter, now.base, {"kept_rank": sum(ranks) / len(ranks)})


def florist(
    server: ServerState, updates: Sequence[ClientUpdate], tau: float = 0.95, max_rank: int | None = None
) -> Model:
    """``base += trunc_p(delta*)``, the smallest p whose energy is ``tau`` of all."""
    now, clients = model(server), clients_of(updates)
    if not clients:
        return now
    base, ranks, means = dict(now.base), [], target(updates)
    for module, mean in means.items():
        energy = np.linalg.svd(mean, compute_uv=False) ** 2
        stacked = sum(client.rank(module) for client in clients)
        p = min(stacked, len(energy))
        while tau < 1 and p > 1 and energy[: p - 1].sum() >= tau * energy.sum():
            p -= 1
        ranks.append(p)
        base[module] = now.base[module] + best(mean, p)
    base, metrics = compressed(base, max_rank, _sizes(server, updates))
    adapter = _emptied(now.adapter, means, dense_means(now.adapter, clients))
    return Model(adapter, base, metrics | {"kept_rank": sum(ranks) / len(ranks)})


def fedhl(
    server: ServerState,
    updates: Sequence[ClientUpdate],
    weights: Literal["tail", "examples"] = "tail",
    eps: float = 0.01,
    max_rank: int | None = None,
) -> Model:
    """``W += sum_i q_i (s_i B_i A_i - W cut to r_i)``; the adapter is ``trunc_R(W)``, the base change the rest."""
    now, clients = model(server), clients_of(updates)
    if not clients:
        return now
    whole = {module: now.change(module) for module in now.base}

    def begun(client: Client, module: str) -> Array:
        r, old = client.rank(module), now.adapter
        return old.scale[module] * (old.b[module][:, :r] @ old.a[module][:r])

    def q(client: Client) -> float:
        if weights == "examples":
            return client.weight
        tail = sum(((whole[module] - begun(client, module)) ** 2).sum() for module in whole)
        return 1 / (tail / sum((w**2).sum() for w in whole.values()) + eps)

    total = sum(q(client) for client in clients)
    after = {}
    for module, before in whole.items():
        changes = [q(client) / total * (client.adapter.delta(module) - begun(client, module)) for client in clients]
        after[module] = before + sum(changes)
    adapter = in_form(after, now.adapter, dense_means(now.adapter, clients))
    rest = {module: after[module] - adapter.delta(module) for module in after}
    base, metrics = compressed(rest, max_rank, _sizes(server, updates))
    return Model(adapter, base, metrics)


def fedex(server: ServerState, updates: Sequence[ClientUpdate], max_rank: int | None = None) -> Model:
    """Owners' mean, and beside it what the mean of the clients' models has more.

    A client's model is the base change, the rank indices above its own as they were, and what it trained.
    """
    now, clients = model(server), clients_of(updates)
    if not clients:
        return now
    adapter = owner_mean(server, updates)
    total = sum(client.weight for client in clients)
    base = {}
    for module in now.base:
        mean = np.zeros_like(now.base[module])
        for client in clients:
            r, old = client.rank(module), now.adapter
            frozen = now.base[module] + old.scale[module] * (old.b[module][:, r:] @ old.a[module][r:])
            mean = mean + client.weight / total * (frozen + client.adapter.delta(module))
        base[module] = mean - adapter.delta(module)
    base, metrics = compressed(base, max_rank, _sizes(server, updates))
    return Model(adapter, base, metrics)


def lora_fair(server: ServerState, updates: Sequence[ClientUpdate], lam: float = 0.01) -> Plain:
    """``B + dB``, ``dB = (delta* / s - B A) A^T (A A^T + lam I)^-1``, from the owners' mean."""
    out = owner_mean(server, updates)
    for module, mean in target(updates).items():
        a, b = out.a[module], out.b[module]
        missed = mean / out.scale[module] - b @ a
        out.b[module] = b + missed @ a.T @ np.linalg.inv(a @ a.T + lam * np.eye(len(a)))
    return out


# --- kernel 3: one factor at a time -----------------------------------------------------------------------------------


def ffa(server: ServerState, updates: Sequence[ClientUpdate]) -> Plain:
    """``B = sum_k p_k [B_k 0]``; A as it was."""
    return by_index(server, updates, lambda i: i.sum() / i.total, min_owners=0, unowned="zero", sides="b")


def rolora(server: ServerState, updates: Sequence[ClientUpdate], fill: Literal["zeros", "owners"] = "zeros") -> Plain:
    """B in odd rounds, A in even ones; ``server.round`` rounds are over.

    With zeros, a row that nobody owns stays if its partner is 0, so that not both are 0 in the end.
    """
    side, other = ("b", "a") if (server.round + 1) % 2 == 1 else ("a", "b")
    if fill == "owners":
        return by_index(server, updates, owners_mean, sides=side)
    out = by_index(server, updates, lambda i: i.sum() / i.total, min_owners=0, unowned="zero", sides=side)
    before = plain(server.adapter)
    for module in out.a:
        highest = max((c.rank(module) for c in clients_of(updates)), default=len(out.a[module]))
        for j in range(highest, len(out.a[module])):
            partner = before.a[module][j] if other == "a" else before.b[module][:, j]
            if not partner.any() and side == "a":
                out.a[module][j] = before.a[module][j]
            if not partner.any() and side == "b":
                out.b[module][:, j] = before.b[module][:, j]
    return out


def lora_a2(server: ServerState, updates: Sequence[ClientUpdate]) -> Plain:
    """B in odd rounds, A in even ones, over those that chose the index."""

    def chosen(client: Client, module: str) -> list[int]:
        return chosen_indices(client.name, module, client.rank(module), len(server.adapter.modules[module].a))

    side = "b" if (server.round + 1) % 2 == 1 else "a"
    return by_index(server, updates, owners_mean, sides=side, draw=chosen)


def fedsa(server: ServerState, updates: Sequence[ClientUpdate], min_owners: int = 1) -> Plain:
    """A over its owners; B as it was."""
    return by_index(server, updates, owners_mean, min_owners=min_owners, sides="a")


def fedsvd(server: ServerState, updates: Sequence[ClientUpdate]) -> Plain:
    """As ffa; the product is then factored anew, which does not change it."""
    return ffa(server, updates)


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Oracle:
    """How a method is checked.

    Args:
        expected: server, updates, options -> the adapter that the method must return, or the whole `Model` where it
            changes the base too or reports something.
        variants: the options to try; every option of the method occurs in one of them.
        by: "factors" where A and B themselves are defined; "delta" for methods of products, whose A and B are one of
            many pairs with the same product.
    """

    expected: Callable[..., Plain | Model]
    variants: Sequence[Mapping[str, object]] = field(default=({},))
    by: Literal["factors", "delta"] = "factors"

    def __call__(self, server: ServerState, updates: Sequence[ClientUpdate], values: Mapping[str, object]) -> Model:
        """The server after the round."""
        out = self.expected(server, updates, **values)
        return out if isinstance(out, Model) else Model(out, model(server).base)


_ALIGN: tuple[dict[str, object], ...] = ({"align": "rotation"}, {"align": "rectangular"})
_MIN_OWNERS: tuple[dict[str, object], ...] = ({}, {"min_owners": 0}, {"min_owners": 2})

ORACLES: Mapping[str, Oracle] = {
    "fedavg": Oracle(fedavg, ({}, *_ALIGN)),
    "zero_padding": Oracle(zero_padding, ({}, {"keep_unowned": True}, {"min_owners": 2}, *_ALIGN)),
    "zero_padding_delta": Oracle(zero_padding_delta, (*_MIN_OWNERS, *_ALIGN)),
    "hetlora": Oracle(
        hetlora,
        (
            {},
            {"keep_unowned": True},
            {"per_layer": True, "keep_unowned": True},
            {"min_owners": 2},
            {"align": "rotation"},
            {"per_layer": True, "align": "rectangular"},
        ),
    ),
    "replication": Oracle(
        replication, (*_MIN_OWNERS, {"donor": "owners"}, {"donor": "owners", "min_owners": 0}, *_ALIGN)
    ),
    "owner_mean": Oracle(owner_mean, (*_MIN_OWNERS, *_ALIGN)),
    "tempered": Oracle(tempered, ({}, {"min_owners": 2}, {"gamma": 0.0, "min_owners": 0}, {"gamma": 2.0}, *_ALIGN)),
    "shrinkage": Oracle(shrinkage, ({}, {"min_owners": 2}, {"min_owners": 4})),
    "validated": Oracle(
        validated,
        (
            *({}, {"min_owners": 2}, {"gamma": 0.0, "min_owners": 0, "choose": False}),
            {"sharpness": 3.0, "gamma": 2.0, "choose": False},
        ),
    ),
    "rb_lora": Oracle(rb_lora, ({}, {"min_owners": 0}, {"min_owners": 2}), "delta"),
    "fslora": Oracle(fslora),
    "fed_plora": Oracle(fed_plora),
    "flora": Oracle(flora, ({}, {"max_rank": 5}), "delta"),
    "flexlora": Oracle(flexlora, ({}, {"balanced": True}, {"compress": 0.0}, {"compress": 1e-14}), "delta"),
    "raflora": Oracle(raflora, by="delta"),
    "spectral": Oracle(spectral, ({}, {"noise": 0.0}, {"noise": 0.4}), "delta"),
    "florist": Oracle(florist, ({}, {"tau": 1.0}, {"tau": 0.5}, {"tau": 1.0, "max_rank": 3}), "delta"),
    "fedhl": Oracle(fedhl, ({}, {"weights": "examples"}, {"eps": 5.0}, {"max_rank": 2}), "delta"),
    "fedex": Oracle(fedex, ({}, {"max_rank": 4})),
    "lora_fair": Oracle(lora_fair, ({}, {"lam": 2.0}), "delta"),
    "ffa": Oracle(ffa),
    "rolora": Oracle(rolora, ({}, {"fill": "owners"})),
    "lora_a2": Oracle(lora_a2),
    "fedsa": Oracle(fedsa, ({}, {"min_owners": 2})),
    "fedsvd": Oracle(fedsvd, by="delta"),
}
