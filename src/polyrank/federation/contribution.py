"""What a client adds to a sum whose parts nobody sees, and which rows of it may be summed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from polyrank.aggregation import Method, Sums
from polyrank.aggregation.method import Kernel
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import SecureError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.core.strict import Count
from polyrank.federation.round import accepted, parts_of
from polyrank.federation.tree import levels
from polyrank.secure.ring import Ring
from polyrank.secure.values import Together

Owned = Mapping[str, torch.Tensor]
"""Name of a tensor of owners -> which of its rows a client owns, 0 or 1."""


@dataclass(frozen=True)
class Plan:
    """What the clients of a secure sum have to know to contribute to it; the same for all of them.

    Args:
        round: its number.
        ranks: client -> the rank up to which its rows are summed.
        modules: module -> rank and scale of the global adapter, of which a client has its own rows alone.
        ring: of the numbers.
        least: clients without whom a row is not summed.
    """

    round: Count
    ranks: Mapping[str, Count]
    modules: Mapping[str, tuple[Count, float]]
    ring: Ring
    least: Count

    def together(self, method: Method) -> Together:
        """Whose values are summed apart: of the same row, and all of them."""
        owned = owned_rows(method, self.round, self.modules, self.ranks)
        return Together(_groups(owned, self.ranks), self.least)

    def kernel(self, method: Method, like: Adapter) -> Kernel[Sums]:
        """The round's kernel on a client, of the global adapter's shapes: none of its values has a part in a sum.

        Args:
            method: of the federation.
            like: the adapter that the client was sent.
        """
        modules = {
            name: Factors(
                torch.zeros(rank, like.modules[name].d_in), torch.zeros(like.modules[name].d_out, rank), scale
            )
            for name, (rank, scale) in self.modules.items()
        }
        return _kernel(method, self.round, Adapter(modules, like.dense), self.ranks)

    def contribution(
        self, method: Method, sent: Adapter, update: ClientUpdate, *, uniform: bool, local_head: bool
    ) -> Sums:
        """A client's contribution, of the same shapes whatever its rank: zeros for the rows that it lacks.

        Args:
            method: of the federation.
            sent: what the client started from.
            update: what it made of it.
            uniform: whether every client weighs 1 instead of its own weight.
            local_head: whether heads stay with their clients.

        Raises:
            SecureError: there is something in the update that no server would take.
        """
        if self.modules.keys() != sent.modules.keys() or update.client not in self.ranks:
            raise SecureError("the plan is of other modules, or of other clients")
        found = accepted(update, sent, parts_of(method, self.round, local_head=local_head).sends, uniform=uniform)
        if isinstance(found, str):
            raise SecureError(found)
        if found.weight == 0:
            raise SecureError("its weight is 0; expected more, since it counts as an owner of its rows")
        cut = replace(found, adapter=found.adapter.prefix(self.ranks[update.client]))
        return self.kernel(method, sent).contribution(cut)

    def check_owners(self, method: Method, sums: Sums, clients: tuple[str, ...]) -> None:
        """Refuse sums that are not of these clients' ranks.

        Raises:
            SecureError: the owners of a row are not so many as they would be.
        """
        owned = owned_rows(method, self.round, self.modules, self.ranks)
        for name in next(iter(owned.values())):
            expected = torch.stack([owned[self.ranks[client]][name] for client in clients]).sum(dim=0)
            if not torch.equal(sums.tensors[name], expected):
                raise SecureError(f"the sum has other owners in {name} than its clients have rows; one sent another")


def plan_of(method: Method, state: ServerState, ranks: Mapping[str, int], ring: Ring, least: int) -> Plan:
    """The plan for clients of these ranks.

    Where a row would have fewer owners than ``least``, the clients that own it leave out theirs from there on, as
    clients of the next lower rank among them would.

    Args:
        method: of the federation.
        state: before the round.
        ranks: client -> rank, of those that will contribute.
        ring: of the numbers.
        least: owners without whom a row is not summed.

    Raises:
        SecureError: the lowest rank has too few.
    """
    modules = {name: (factors.rank, factors.scale) for name, factors in state.adapter.modules.items()}
    kept = dict(ranks)
    while True:
        groups = _groups(owned_rows(method, state.round + 1, modules, kept), kept)
        rare = {kept[client] for group in groups if len(group) < least for client in group}
        if not rare:
            return Plan(state.round + 1, kept, modules, ring, least)
        lower = [rank for rank in sorted(set(kept.values())) if rank < max(rare)]
        if not lower:
            raise SecureError(
                f"{len(kept)} clients would be summed, expected {least} of every rank or of a higher one "
                "(secure.min_owners): nothing was revealed"
            )
        kept = {client: lower[-1] if rank == max(rare) else rank for client, rank in kept.items()}


def owned_rows(
    method: Method, number: int, modules: Mapping[str, tuple[int, float]], ranks: Mapping[str, int]
) -> Mapping[int, Owned]:
    """Rank -> the rows that a client of it owns, wherever the method counts owners; what the kernel itself says.

    Asked of layers of one input and one output, since ranks alone decide.
    """
    factors = {name: Factors(torch.zeros(r, 1), torch.zeros(1, r), scale) for name, (r, scale) in modules.items()}
    adapter = Adapter(factors)
    kernel = _kernel(method, number, adapter, ranks)
    return {
        rank: {
            name: tensor
            for name, tensor in kernel.contribution(ClientUpdate("", adapter.prefix(rank), 1.0)).tensors.items()
            if name.endswith("owners")
        }
        for rank in sorted(set(ranks.values()))
    }


def _groups(owned: Mapping[int, Owned], ranks: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """The different groups of clients that own a row together, and all clients: they share a head."""
    found = {tuple(sorted(ranks))}
    for name in next(iter(owned.values())):
        rows = torch.stack([owned[rank][name] for rank in owned]).T.tolist()
        for row in {tuple(one) for one in rows}:
            owners = {rank for rank, owns in zip(owned, row, strict=True) if owns}
            found.add(tuple(sorted(client for client, rank in ranks.items() if rank in owners)))
    return tuple(sorted(group for group in found if group))


def _kernel(method: Method, number: int, adapter: Adapter, ranks: Mapping[str, int]) -> Kernel[Sums]:
    state = ServerState(number - 1, adapter, ranks, {})
    return method.start(state, levels(state, ranks))
