"""What an aggregation method is: an object that starts an accumulator, and the facts about it for the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, runtime_checkable

from torch import Tensor

from polyrank.adapter import Adapter
from polyrank.state import ClientUpdate, ServerState

Exactness = Literal["no", "up to rank R", "yes"]


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a round of aggregation gives: the new global adapter, and what the method measured on the way.

    Args:
        adapter: of the ranks, names, scales and dtypes of the server's.
        base_change: what the server keeps beside it (see `ServerState`).
        metrics: by name, without prefix.
    """

    adapter: Adapter
    base_change: Adapter | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Accumulator(Protocol):
    """Folds client updates one by one; two accumulators of disjoint clients can be merged.

    Adding updates one by one, or in two halves that are merged, gives the same result up to rounding.
    """

    def add(self, update: ClientUpdate) -> None:
        """Fold one update in; it may be dropped afterwards."""

    def merge(self, other: Self) -> None:
        """Fold in all that another accumulator of the same method and server state has seen."""

    def finish(self) -> Aggregate:
        """The result; the accumulator is not used afterwards."""


@dataclass(frozen=True, eq=False)
class Partial:
    """All that an accumulator has seen, as data that can be sent.

    Args:
        about: JSON values.
        tensors: by name; views of the accumulator's own memory.
    """

    about: Mapping[str, Any]  # Any: JSON
    tensors: Mapping[str, Tensor]


@runtime_checkable
class Portable(Accumulator, Protocol):
    """An accumulator that can be taken to another machine; those of both kernels can."""

    def dump(self) -> Partial:
        """What it has seen."""

    def restore(self, partial: Partial) -> None:
        """See all that again, in an accumulator of the same method and server state that has seen nothing.

        Raises:
            AdapterError: it is not of such an accumulator: a tensor is missing, of another shape or not finite, or a
                weight is negative or not finite.
        """


@dataclass(frozen=True)
class Parts:
    """Which parts of an adapter (``"a"``, ``"b"``, ``"head"``) take which way in a round.

    Args:
        trains: what local training changes.
        sends: what the client sends back.
        receives: what the client is sent; the rest it knows (a shared seed), or has.
        keeps: what stays with the client from one of its rounds to the next, and is never sent.
    """

    trains: frozenset[str] = frozenset({"a", "b", "head"})
    sends: frozenset[str] = frozenset({"a", "b", "head"})
    receives: frozenset[str] = frozenset({"a", "b", "head"})
    keeps: frozenset[str] = frozenset()

    def with_local_head(self) -> Parts:
        """The same with a head that stays with the client."""
        head = frozenset({"head"})
        return Parts(self.trains, self.sends - head, self.receives - head, self.keeps | head)


@dataclass(frozen=True, eq=False)
class Download:
    """What a client of one rank trains on: an adapter, and a frozen update of the base beside it."""

    adapter: Adapter
    base_change: Adapter | None = None


@dataclass(frozen=True)
class MethodInfo:
    """The registry's facts about a method.

    Args:
        name: as written in a configuration.
        paper: address of the paper, or "" for a method of our own.
        averages: what is averaged, in a few words.
        exact: whether the change of the global model is the weighted mean of the clients' products: never, but for the
            cut to the global rank, or always (for a method that shares one factor: of the part that is trained).
        linear: whether the result is a function of sums over clients whose size does not depend on the number of
            clients, so that a secure sum can compute it.
        equal_ranks: whether all clients must have the same rank.
        changes_base: whether it keeps a base change.
        merges: whether merging adapters once with it makes sense.
    """

    name: str
    paper: str
    averages: str
    exact: Exactness
    linear: bool
    equal_ranks: bool = False
    changes_base: bool = False
    merges: bool = True


class Method(ABC):
    """An aggregation method: a frozen dataclass whose fields are its options."""

    info: ClassVar[MethodInfo]

    @abstractmethod
    def start(self, server: ServerState) -> Accumulator:
        """An empty accumulator for the round that follows ``server``."""

    def parts(self, round_number: int) -> Parts:  # noqa: ARG002  # some methods alternate
        """What is trained and what travels in a round; everything, unless a method says otherwise."""
        return Parts()

    def read_out(self, server: ServerState, rank: int) -> Download:
        """What a client of ``rank`` starts from, at the server's scale: the first rows of A and columns of B."""
        return Download(server.adapter.prefix(rank), server.base_change)


M = TypeVar("M", bound=Method)


def method(
    name: str,
    *,
    paper: str,
    averages: str,
    exact: Exactness,
    linear: bool,
    equal_ranks: bool = False,
    changes_base: bool = False,
    merges: bool = True,
) -> Callable[[type[M]], type[M]]:
    """Class decorator that attaches `MethodInfo`; registry.py lists the classes."""

    def attach(cls: type[M]) -> type[M]:
        cls.info = MethodInfo(name, paper, averages, exact, linear, equal_ranks, changes_base, merges)
        return cls

    return attach


def options(cls: type[Method]) -> dict[str, str]:
    """The options of a method and their types, as written in its dataclass."""
    return {f.name: str(f.type) for f in fields(cls)}  # type: ignore[arg-type]  # every method is a dataclass
