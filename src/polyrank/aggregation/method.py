"""What an aggregation method is: what it adds up in a round, and the facts about it for the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from polyrank.aggregation.sums import Partial, Summed
from polyrank.core.adapter import PARTS, Adapter, Part
from polyrank.core.state import ClientUpdate, ServerState

Exactness = Literal["no", "up to rank R", "yes"]


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a round of aggregation gives: the new global adapter, and what the method measured on the way.

    Args:
        adapter: of the ranks, names, scales and dtypes of the server's.
        base_change: what the server keeps beside it (see `ServerState`).
        metrics: by name, without prefix.
        memory: what the method wants to find in the server's state in the next round.
        candidates: results of the round from which the server takes the one that it measures to be the best; none where
            this is the only one.
    """

    adapter: Adapter
    base_change: Adapter | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    candidates: Sequence[Aggregate] = ()


Levels: TypeAlias = Mapping[str, tuple[int, ...]]
"""Module -> the different ranks of the clients that were asked, ascending; known before anyone answers."""

S = TypeVar("S", bound=Summed)


class Kernel(ABC, Generic[S]):
    """One round of a method: what is added up over the clients, and what becomes of it.

    Adding contributions one by one, or in groups whose sums are added, gives the same result up to rounding. Between
    the three steps stands whatever a federation wants to do to the values: a client to its contribution before it
    leaves, the server to the sum before it is concluded.
    """

    @abstractmethod
    def empty(self) -> S:
        """The sum over no clients."""

    @abstractmethod
    def check(self, update: ClientUpdate) -> None:
        """Refuse an update that the sums have no place for.

        Raises:
            AdapterError: as `polyrank.aggregation.kernels.updates.check_update`, or the method takes no such ranks; the
                client is named.
        """

    @abstractmethod
    def fold(self, sums: S, update: ClientUpdate) -> S:
        """``sums + contribution(update)`` in the memory of ``sums``, rounded once where the two steps round twice.

        The caller may reuse the memory of the update afterwards.

        Raises:
            AdapterError: as `check`; nothing has been added then.
        """

    def contribution(self, update: ClientUpdate) -> S:
        """What one client contributes.

        Raises:
            AdapterError: as `check`.
        """
        return self.fold(self.empty(), update)

    @abstractmethod
    def conclude(self, sums: S) -> Aggregate:
        """The result; the sums are used up, since it is made in their memory."""

    @abstractmethod
    def received(self, partial: Partial) -> S:
        """Sums that another machine made for the same round.

        Raises:
            AdapterError: they are not of this round: a tensor is missing, of another shape or not finite, or a weight
                is negative or not finite.
        """


@dataclass(frozen=True)
class Parts:
    """Which parts of an adapter take which way in a round.

    Args:
        trains: what local training changes.
        sends: what the client sends back.
        receives: what the client is sent; the rest it knows (a shared seed), or has.
        keeps: what stays with the client from one of its rounds to the next, and is never sent.
    """

    trains: frozenset[Part] = PARTS
    sends: frozenset[Part] = PARTS
    receives: frozenset[Part] = PARTS
    keeps: frozenset[Part] = frozenset()

    def with_local_head(self) -> Parts:
        """The same with a head that stays with the client."""
        head: frozenset[Part] = frozenset({"head"})
        return Parts(self.trains, self.sends - head, self.receives - head, self.keeps | head)


@dataclass(frozen=True, eq=False)
class Download:
    """What a client of one rank trains on: an adapter, and a frozen update of the base beside it."""

    adapter: Adapter
    base_change: Adapter | None = None


class Needs(NamedTuple):
    """What a method needs of a round to learn from it.

    Args:
        clients: how many at least must answer, for any value to change.
        owners: how many of them must own a row, for it to change; 0 where the method's options say that.
    """

    clients: int = 1
    owners: int = 0


@dataclass(frozen=True)
class MethodInfo:
    """The registry's facts about a method.

    Args:
        name: as written in a configuration.
        paper: address of the paper, or where it appeared if none is known; "" for a method of our own.
        averages: what is averaged, in a few words.
        exact: whether the change of the global model is the weighted mean of the clients' products: never, but for the
            cut to the global rank, or always (for a method that shares one factor: of the part that is trained).
        fixed_sums: whether what is added up has a fixed shape (`Sums`), however many clients there are, so that a
            secure sum can compute it. Else every client's factors are kept (`Stacks`).
        equal_ranks: whether all clients must have the same rank.
        changes_base: whether it keeps a base change.
        aligns: whether clients can be rotated before it (`align.py`), by the option ``align``.
        own_weights: whether it weighs clients by what they send, whatever weights it is given.
        judges: whether it needs what the server measures of each client's model (`ClientUpdate.excess`).
        merges: whether merging adapters once with it makes sense.
        refactors: whether it makes factors of the round's products (by SVD, or a B that is fitted to the round's A),
            so that a value of the adapter is no longer what it was in the round before.
        draws_indices: whether the rank indices that a client has are drawn for it in each round.
        chooses_indices: whether a client is sent all of them and chooses which it trains and sends back.
        sends_rest: whether the rank indices that a client does not train come down frozen, as a base change.
    """

    name: str
    paper: str
    averages: str
    exact: Exactness
    fixed_sums: bool
    equal_ranks: bool = False
    changes_base: bool = False
    aligns: bool = False
    own_weights: bool = False
    judges: bool = False
    merges: bool = True
    refactors: bool = False
    draws_indices: bool = False
    chooses_indices: bool = False
    sends_rest: bool = False

    @property
    def first_indices(self) -> bool:
        """Whether a client of rank r has the first r rank indices."""
        return not (self.draws_indices or self.chooses_indices)


class Method(ABC):
    """An aggregation method: a frozen dataclass whose fields are its options."""

    info: ClassVar[MethodInfo] = MethodInfo("", "", "", "no", fixed_sums=False)
    """What `method` attaches; of a method that no registry lists, nothing but defaults."""

    max_rank: int | None = None
    """Of its base change, where it makes one; None for the smaller side of each layer."""

    @property
    def hides_who_came(self) -> bool:
        """Whether a round is concluded though nobody counts in it, so that nobody can see that."""
        return False

    @property
    def secure(self) -> bool:
        """Whether a secure sum can compute it: a plan by ranks alone, weights that need no look, nothing that stays."""
        info = self.info
        return info.fixed_sums and info.first_indices and not (info.own_weights or info.judges or self.keeps())

    def keeps(self, *, local_head: bool = False) -> frozenset[Part]:
        """What stays with a client in some round, and is never sent.

        Args:
            local_head: whether heads stay too.
        """
        head: frozenset[Part] = frozenset({"head"} if local_head else ())
        return self.parts(1).keeps | self.parts(2).keeps | head

    def options(self) -> Mapping[str, Any]:  # Any: of the method
        """Its options, as all nodes of a tree must have them."""
        return dict(asdict(self))  # type: ignore[call-overload]  # they are dataclasses

    @abstractmethod
    def start(self, server: ServerState, levels: Levels) -> Kernel[Any]:  # Any: the sums' kind is the kernel's own
        """The round that follows ``server``, with clients of these ranks."""

    def parts(self, round_number: int) -> Parts:  # noqa: ARG002  # some methods alternate
        """What is trained and what travels in a round; everything, unless a method says otherwise."""
        return Parts()

    def indices(self, server: ServerState, client: str, ranks: Mapping[str, int]) -> Mapping[str, Tensor]:  # noqa: ARG002  # of those that draw
        """Module -> the rank indices that a client has in the round that follows, ascending; {} for the first ones.

        Args:
            server: the state before the round.
            client: its name.
            ranks: module -> how many it has.
        """
        return {}

    def owned(self, server: ServerState, update: ClientUpdate) -> Mapping[str, Tensor]:
        """Module -> the rank indices of an update's rows, ascending; {} for the first ones."""
        if update.indices is None:
            return self.indices(server, update.client, update.adapter.ranks)
        return {name: torch.tensor(own, dtype=torch.int64) for name, own in update.indices.items()}

    def scaled_up(self, rank: int, of: int) -> float:  # noqa: ARG002  # of those that sketch
        """By how much a client's scale is above its own in a module, where it has ``rank`` of ``of`` rank indices."""
        return 1.0

    def read_out(self, server: ServerState, rank: int, client: str) -> Download:  # noqa: ARG002  # of those that draw
        """What a client of ``rank`` starts from, at the server's scale: the first rows of A and columns of B.

        Args:
            server: the state before the round.
            rank: of the client.
            client: its name, which says nothing unless the method draws rank indices.
        """
        return Download(server.adapter.prefix(rank), server.base_change)

    def change_rank(self, before: int, clients: Sequence[int], top: int) -> tuple[int, int]:  # noqa: ARG002  # of those that change the base
        """The least and the most rank that a module's base change has after a round, before it is cut to its limit.

        Args:
            before: its rank before the round; 0 without one.
            clients: the ranks of those that trained.
            top: the rank of the global adapter.
        """
        return before, before

    def needs(self, count: int) -> Needs:  # noqa: ARG002  # of those that judge clients by one another
        """What it needs of a round in which ``count`` clients answer."""
        return Needs()


M = TypeVar("M", bound=Method)


def method(
    name: str,
    *,
    paper: str,
    averages: str,
    exact: Exactness,
    fixed_sums: bool,
    **facts: bool,
) -> Callable[[type[M]], type[M]]:
    """Class decorator that attaches `MethodInfo`, with its other ``facts`` by name; registry.py lists the classes."""

    def attach(cls: type[M]) -> type[M]:
        cls.info = MethodInfo(name, paper, averages, exact, fixed_sums, **facts)
        return cls

    return attach
