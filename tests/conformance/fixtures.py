"""Rounds for the conformance matrix: small, seeded, and awkward in every way a real one is.

All but the equal-ranks round have unequal ranks, unequal weights, scales that differ between clients, modules and the
server, layers of two shapes that are not square, a rank-1 client and a client of weight 0. Some come after a round in
which B was trained, others after one for A; some servers have a base change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from polyrank.aggregation import Aggregate, Levels, Method
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState

SHAPES: Mapping[str, tuple[int, int]] = {"layer.0.q": (7, 10), "layer.1.v": (12, 8)}  # d_out, d_in
DENSE: Mapping[str, tuple[int, ...]] = {"head.weight": (3, 7), "head.bias": (3,)}
EXCESS: Mapping[str, float] = {"dee": 0.4, "ann": 0.0, "cem": 1.3, "bob": 0.1, "eve": 0.2, "fay": 2.1}
ALONE: Mapping[str, Mapping[str, object]] = {"validated": {"choose": False}}
"""Options of methods whose defaults need a server that measures."""
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Member:
    """A client of a round: weight, rank in both modules, and scale in the first (the second has 5/4 of it)."""

    name: str
    weight: float
    ranks: tuple[int, int]
    scale: float

    @classmethod
    def of(cls, name: str, weight: float, rank: int, scale: float) -> Member:
        return cls(name, weight, (rank, rank), scale)


@dataclass(frozen=True)
class Round:
    """The server's state and the updates it gets."""

    server: ServerState
    updates: tuple[ClientUpdate, ...]

    def with_updates(self, change: Callable[[ClientUpdate], ClientUpdate]) -> Round:
        return replace(self, updates=tuple(change(update) for update in self.updates))

    def copy(self) -> Round:
        """The same values in memory of their own."""
        base_change = self.server.base_change and self.server.base_change.map(torch.clone)
        return Round(
            replace(self.server, adapter=self.server.adapter.map(torch.clone), base_change=base_change),
            tuple(replace(update, adapter=update.adapter.map(torch.clone)) for update in self.updates),
        )


def make(members: Sequence[Member], rank: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Round:
    """A round with standard normal values for a global adapter of the given rank."""
    numbers = np.random.default_rng(seed)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(numbers.standard_normal(shape)).to(dtype)

    def adapter(ranks: Sequence[int], scales: Sequence[float]) -> Adapter:
        modules = {
            name: Factors(normal(r, d_in), normal(d_out, r), scale)
            for (name, (d_out, d_in)), r, scale in zip(SHAPES.items(), ranks, scales, strict=True)
        }
        return Adapter(modules, {name: normal(*shape) for name, shape in DENSE.items()})

    server = ServerState(
        round=1,
        adapter=adapter((rank, rank), (2.0, 0.75)),
        ranks={m.name: max(m.ranks) for m in members},
        scales={m.name: m.scale for m in members},
    )
    updates = tuple(
        ClientUpdate(m.name, adapter(m.ranks, (m.scale, 1.25 * m.scale)), m.weight, excess=EXCESS.get(m.name, 0.7))
        for m in members
    )
    return Round(server, updates)


_THREE_LEVELS = (
    Member.of("dee", 30.0, 1, 1.5),
    Member.of("ann", 5.0, 3, 0.5),
    Member.of("cem", 12.0, 6, 2.0),
    Member.of("bob", 7.5, 3, 3.0),
    Member.of("eve", 0.0, 6, 1.0),
    Member.of("fay", 3.0, 6, 0.25),
)


def three_levels(dtype: torch.dtype = torch.float64) -> Round:
    """Ranks 1, 3 and 6 of 6; two donors of different weights."""
    return make(_THREE_LEVELS, 6, dtype)


def unowned_tail(dtype: torch.dtype = torch.float64) -> Round:
    """Rank 8 globally, 6 at most among the clients that count; one client keeps part of its head to itself."""
    members = [replace(m, ranks=(8, 8)) if m.name == "eve" else m for m in _THREE_LEVELS]

    def keep_bias(update: ClientUpdate) -> ClientUpdate:
        if update.client != "ann":
            return update
        dense = {name: t for name, t in update.adapter.dense.items() if name != "head.bias"}
        return replace(update, adapter=replace(update.adapter, dense=dense))

    return make(members, 8, dtype, seed=1).with_updates(keep_bias)


def module_ranks(dtype: torch.dtype = torch.float64) -> Round:
    """Ranks differ between the modules of one client, and the highest rank is another client's in each."""
    ranks = {"dee": (1, 1), "ann": (3, 6), "cem": (6, 2), "bob": (2, 4), "eve": (6, 6), "fay": (4, 6)}
    return make([replace(m, ranks=ranks[m.name]) for m in _THREE_LEVELS], 6, dtype, seed=2)


def untrained(dtype: torch.dtype = torch.float64) -> Round:
    """The client of the highest rank has not moved: its B is 0, as at the start of LoRA."""

    def fresh(update: ClientUpdate) -> ClientUpdate:
        if update.client != "fay":
            return update
        modules = {name: replace(f, b=torch.zeros_like(f.b)) for name, f in update.adapter.modules.items()}
        return replace(update, adapter=replace(update.adapter, modules=modules))

    members = [replace(m, ranks=(3, 3)) if m.name == "cem" else m for m in _THREE_LEVELS]
    return make(members, 6, dtype, seed=3).with_updates(fresh)


def equal_ranks(dtype: torch.dtype = torch.float64) -> Round:
    """Every client has the global rank."""
    return make([replace(m, ranks=(6, 6)) for m in _THREE_LEVELS], 6, dtype, seed=4)


def after_others(it: Round, base_ranks: Mapping[str, int], seed: int = 9) -> Round:
    """The same one round later, on a server that has a base change of these ranks; as wide as sums are."""
    numbers = np.random.default_rng(seed)
    modules = {}
    for name, rank in base_ranks.items():
        d_out, d_in = SHAPES[name]
        dtype = torch.promote_types(it.server.adapter.modules[name].a.dtype, torch.float32)
        a, b = (torch.from_numpy(numbers.standard_normal(s)).to(dtype) for s in ((rank, d_in), (d_out, rank)))
        modules[name] = Factors(a, b, 0.5)
    return replace(it, server=replace(it.server, round=2, base_change=Adapter(modules)))


def few(dtype: torch.dtype = torch.float64) -> Round:
    """Ranks 1 and 2, so the stack is smaller than the global rank and than the layers; a base change in one layer."""
    it = make([Member.of("dee", 30.0, 1, 1.5), Member.of("ann", 5.0, 2, 0.5)], 6, dtype, seed=6)
    return after_others(it, {"layer.1.v": 3})


def lone(rank: int, dtype: torch.dtype = torch.float64) -> Round:
    """One client, a global adapter of rank 6."""
    return make([Member.of("ann", 5.0, rank, 0.5)], 6, dtype, seed=5)


EQUAL: Mapping[str, Callable[[torch.dtype], Round]] = {
    "equal_ranks": equal_ranks,
    "lone_full": lambda dtype: lone(6, dtype),
    "equal_after": lambda dtype: after_others(equal_ranks(dtype), {"layer.0.q": 3, "layer.1.v": 2}),
}
UNEQUAL: Mapping[str, Callable[[torch.dtype], Round]] = {
    "three_levels": three_levels,
    "unowned_tail": unowned_tail,
    "module_ranks": module_ranks,
    "untrained": untrained,
    "lone_low": lambda dtype: lone(3, dtype),
    "few": few,
    "levels_after": lambda dtype: after_others(three_levels(dtype), {"layer.0.q": 3, "layer.1.v": 2}),
}

HARD = ("unowned_tail", "module_ranks", "levels_after")
"""Between them: rows that nobody owns, ranks that differ between modules, a base change and three levels."""
EQUAL_HARD = ("equal_after",)


def levels_of(server: ServerState, updates: Sequence[ClientUpdate]) -> Levels:
    """The ranks of the clients that count, by module; that of the server where there is none."""
    levels = {}
    for name, factors in server.adapter.modules.items():
        owners = [u.adapter.modules[name] for u in updates if u.weight > 0 and name in u.adapter.modules]
        levels[name] = tuple(sorted({own.rank for own in owners})) or (factors.rank,)
    return levels


def chosen_indices(client: str, module: str, rank: int, of: int) -> list[int]:
    """Rank indices that a client may have chosen, ascending: some, the same whenever asked."""
    seed = sum(ord(letter) * (i + 1) for i, letter in enumerate(f"{client} {module}"))
    return sorted(np.random.default_rng(seed).choice(of, size=rank, replace=False).tolist())


def as_chosen(method: Method, server: ServerState, update: ClientUpdate) -> ClientUpdate:
    """The update of rank indices that its client chose, where the method has clients choose."""
    known = server.adapter.modules
    if not method.info.chooses_indices or not all(
        name in known and f.rank <= known[name].rank for name, f in update.adapter.modules.items()
    ):
        return update
    modules = update.adapter.modules
    indices = {name: chosen_indices(update.client, name, f.rank, known[name].rank) for name, f in modules.items()}
    return replace(update, indices=indices)


class Adding:
    """Sums that grow, for tests that add in many ways."""

    def __init__(self, method: Method, server: ServerState, updates: Sequence[ClientUpdate] = ()) -> None:
        self.kernel = method.start(server, levels_of(server, updates))
        self.sums = self.kernel.empty()
        self.method, self.server = method, server

    def add(self, update: ClientUpdate) -> None:
        self.sums = self.kernel.fold(self.sums, as_chosen(self.method, self.server, update))

    def merge(self, other: Adding) -> None:
        self.sums += other.sums

    def finish(self) -> Aggregate:
        return self.kernel.conclude(self.sums)


def conclude(method: Method, server: ServerState, updates: Sequence[ClientUpdate]) -> Aggregate:
    """One round, one update after the other."""
    adding = Adding(method, server, updates)
    for update in updates:
        adding.add(update)
    return adding.finish()


def aggregate(method: Method, server: ServerState, updates: Sequence[ClientUpdate]) -> Adapter:
    """The new global adapter of one round."""
    return conclude(method, server, updates).adapter


def as_trained(method: Method, it: Round) -> Round:
    """The same round, with the factors that the method does not train as the server has them."""
    trains = method.parts(it.server.round + 1).trains

    def untouched(update: ClientUpdate) -> ClientUpdate:
        modules = {}
        for name, mine in update.adapter.modules.items():
            global_ = it.server.adapter.modules[name].prefix(mine.rank).rescaled(mine.scale)
            modules[name] = Factors(
                mine.a if "a" in trains else global_.a, mine.b if "b" in trains else global_.b, mine.scale
            )
        return replace(update, adapter=replace(update.adapter, modules=modules))

    return it.with_updates(untouched)
