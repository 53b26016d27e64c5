"""Clients of a secure sum in this process, of whom some drop out or lie, and a record of all that the server gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polyrank.core.errors import SecureError
from polyrank.secure import client as member
from polyrank.secure.attempt import Traffic, attempt
from polyrank.secure.values import Card, Roster, Shares, Together


@dataclass
class Parties:
    """A carrier.

    Args:
        vectors: client -> its contribution.
        lost: step -> clients that answer no more from there on.
        changed: step -> what is made of its answers on the way.
        groups: of clients whose values are summed apart; by default all of them.
        least: of a group.
    """

    vectors: Mapping[str, np.ndarray]
    lost: Mapping[str, set[str]] = field(default_factory=dict)
    changed: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()
    least: int = 2

    def __post_init__(self) -> None:
        self.failures: dict[str, str] = {}
        self.seen: list[Any] = []
        self._gone: set[str] = set()
        self._state: dict[str, Any] = {}

    def total(self, threshold: int) -> tuple[np.ndarray, tuple[str, ...]]:
        groups = self.groups or (tuple(sorted(self.vectors)),)
        together = Together(groups, self.least)

        def planned(sharers: Sequence[str]) -> tuple[Together, Together]:  # noqa: ARG001
            return together, together

        names = sorted(self.vectors)
        _, found = attempt(self, "attempt", names, threshold, planned=planned, traffic=Traffic())
        return found.vector, found.survivors

    def cards(self, token: str, clients: Sequence[str]) -> Mapping[str, Card]:
        self._state = {client: member.opened(token, client) for client in clients}
        return self._answer("cards", {client: state.card for client, state in self._state.items()})

    def sealed(self, roster: Roster) -> Mapping[str, Mapping[str, str]]:
        return self._answer("sealed", self._each(roster.cards, lambda c: member.shared(self._state[c], roster)))

    def masked(self, plan: Together, inboxes: Mapping[str, Mapping[str, str]]) -> Mapping[str, np.ndarray]:
        def one(client: str) -> Any:
            return member.masked(self._state[client], inboxes[client], self.vectors[client], plan)

        return self._answer("masked", self._each(inboxes, one))

    def shares(self, survivors: Sequence[str]) -> Mapping[str, Shares]:
        return self._answer("shares", self._each(survivors, lambda c: (None, member.told(self._state[c], survivors))))

    def _each(self, clients: Any, step: Callable[[str], tuple[Any, Any]]) -> dict[str, Any]:
        said = {}
        for client in clients:
            try:
                self._state[client], said[client] = step(client)
            except SecureError as error:
                self.failures[client] = str(error)
        return said

    def _answer(self, step: str, said: Mapping[str, Any]) -> Any:
        self._gone |= self.lost.get(step, set())
        there = {client: value for client, value in said.items() if client not in self._gone}
        there = self.changed.get(step, lambda value: value)(there)
        self.seen.append(there)
        return there


def some(clients: int, length: int = 5000, seed: int = 0) -> dict[str, np.ndarray]:
    """Small numbers, as uint32 in two's complement, so that a plain one would be seen at once."""
    generator = np.random.default_rng(seed)
    return {f"c{i}": generator.integers(-99, 99, length).astype(np.uint32) for i in range(clients)}


def added(vectors: Mapping[str, np.ndarray], clients: Sequence[str]) -> np.ndarray:
    """What the sum of these clients must be."""
    return sum((vectors[client] for client in clients), start=np.zeros_like(next(iter(vectors.values()))))
