"""What an aggregation method is: an object that starts an accumulator, and the facts about it for the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Protocol, Self, TypeVar

from polyrank.adapter import Adapter
from polyrank.state import ClientUpdate, ServerState


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a round of aggregation gives: the new global adapter, and what the method measured on the way."""

    adapter: Adapter
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


@dataclass(frozen=True)
class MethodInfo:
    """The registry's facts about a method.

    Args:
        name: as written in a configuration.
        paper: address of the paper, or "" for a method of our own.
        averages: what is averaged, in a few words.
        exact: whether the result is the weighted mean of the clients' products, for any clients.
        linear: whether the result is a ratio of sums over clients, so that a secure sum can compute it.
        equal_ranks: whether all clients must have the same rank.
    """

    name: str
    paper: str
    averages: str
    exact: bool
    linear: bool
    equal_ranks: bool = False


class Method(Protocol):
    """An aggregation method: a frozen dataclass whose fields are its options."""

    info: ClassVar[MethodInfo]

    def start(self, server: ServerState) -> Accumulator:
        """An empty accumulator for the round that follows ``server``."""


T = TypeVar("T")


def method(
    name: str, *, paper: str, averages: str, exact: bool, linear: bool, equal_ranks: bool = False
) -> Callable[[type[T]], type[T]]:
    """Class decorator that attaches `MethodInfo`; registry.py lists the classes."""

    def attach(cls: type[T]) -> type[T]:
        cls.info = MethodInfo(name, paper, averages, exact, linear, equal_ranks)  # type: ignore[attr-defined]  # the protocol's ClassVar
        return cls

    return attach


def options(cls: type[Method]) -> dict[str, str]:
    """The options of a method and their types, as written in its dataclass."""
    return {f.name: str(f.type) for f in fields(cls)}  # type: ignore[arg-type]  # every method is a dataclass
