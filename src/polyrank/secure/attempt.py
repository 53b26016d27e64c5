"""The server's side of a secure sum: four questions to the clients, and the sum of those that came to the third."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from polyrank.core.errors import SecureError
from polyrank.secure import primitives
from polyrank.secure.client import own_mask, pair_mask, sign_of
from polyrank.secure.values import Card, Roster, Shares, Together, check_enough, to_bytes

P = TypeVar("P")
Plan_contra = TypeVar("Plan_contra", contravariant=True)


class Carrier(Protocol[Plan_contra]):
    """What brings the questions of one attempt to the clients; who is not in an answer has dropped out.

    Args:
        failures: client -> why it gave no answer.
    """

    failures: dict[str, str]

    def cards(self, token: str, clients: Sequence[str]) -> Mapping[str, Card]:
        """A card of each client that is there."""

    def sealed(self, roster: Roster) -> Mapping[str, Mapping[str, str]]:
        """What each client of the roster sealed for the others."""

    def masked(self, plan: Plan_contra, inboxes: Mapping[str, Mapping[str, str]]) -> Mapping[str, np.ndarray]:
        """The masked contribution of each client, which is made now; it is brought what others sealed for it."""

    def shares(self, survivors: Sequence[str]) -> Mapping[str, Shares]:
        """What the clients of the sum tell to open it."""


@dataclass
class Traffic:
    """Bytes of what a carrier brought, each way, by client."""

    down: dict[str, int] = field(default_factory=dict)
    up: dict[str, int] = field(default_factory=dict)

    def count(self, way: dict[str, int], values: Mapping[str, Any]) -> None:  # Any: what is sent to a client, or by it
        """Add what each client was sent, or has sent."""
        for client, value in values.items():
            size = value.nbytes if isinstance(value, np.ndarray) else len(json.dumps(value, default=asdict))
            way[client] = way.get(client, 0) + size


@dataclass(frozen=True, eq=False)
class Total:
    """A sum that was opened.

    Args:
        vector: of the survivors' contributions, modulo the ring.
        survivors: whose they are, sorted.
    """

    vector: np.ndarray
    survivors: tuple[str, ...]


def attempt(
    carrier: Carrier[P],
    token: str,
    clients: Sequence[str],
    threshold: int,
    *,
    planned: Callable[[Sequence[str]], tuple[P, Together]],
    traffic: Traffic,
) -> tuple[P, Total]:
    """One attempt at the sum of these clients' contributions.

    Args:
        carrier: of this attempt.
        token: of its own.
        clients: that are asked.
        threshold: clients that must come to the end.
        planned: what those that will contribute have to know, and whose values are summed apart.
        traffic: what was brought is added to it, whether the attempt comes to its end or not.

    Raises:
        SecureError: too few came to a step, a group of the sum is too small, or shares do not open it. Nothing is known
            of any contribution then.
    """
    cards = carrier.cards(token, clients)
    traffic.count(traffic.up, _plain(cards))
    check_enough(cards, threshold, "gave their keys", carrier.failures)
    roster = Roster(token, threshold, cards)
    traffic.count(traffic.down, dict.fromkeys(cards, asdict(roster)))
    boxes = {c: box for c, box in carrier.sealed(roster).items() if box.keys() == cards.keys() - {c}}
    traffic.count(traffic.up, boxes)
    check_enough(boxes, threshold, "shared out their secrets", carrier.failures)
    plan, together = planned(sorted(boxes))
    together.check(boxes)
    inboxes = {client: {other: boxes[other][client] for other in boxes if other != client} for client in sorted(boxes)}
    traffic.count(traffic.down, inboxes)
    vectors = carrier.masked(plan, inboxes)
    traffic.count(traffic.up, vectors)
    check_enough(vectors, threshold, "sent their masked sums", carrier.failures)
    together.check(vectors)
    survivors = tuple(sorted(vectors))
    traffic.count(traffic.down, dict.fromkeys(survivors, survivors))
    shares = carrier.shares(survivors)
    traffic.count(traffic.up, _plain(shares))
    check_enough(shares, threshold, "helped to open the sum", carrier.failures)
    return plan, Total(unmasked(roster, sorted(boxes), vectors, shares), survivors)


def unmasked(
    roster: Roster, sharers: Sequence[str], vectors: Mapping[str, np.ndarray], shares: Mapping[str, Shares]
) -> np.ndarray:
    """The sum of masked contributions without their masks.

    Args:
        roster: of the attempt.
        sharers: the clients whose pair masks are in the contributions.
        vectors: client -> its masked contribution.
        shares: client -> what it told.

    Raises:
        SecureError: shares are missing, or not of the secrets that were meant.
    """
    survivors = sorted(vectors)
    total = np.zeros_like(vectors[survivors[0]])
    for client in survivors:
        np.add(total, vectors[client], out=total)
    for client in survivors:
        seed = _opened(roster, client, {who: told.seeds for who, told in shares.items()})
        if primitives.commitment(seed) != to_bytes(roster.cards[client].seed):
            raise SecureError(_wrong(client, "seed"))
        primitives.add_mask(total, own_mask(roster.token, seed), -1)
    for lost in sorted(set(sharers) - set(survivors)):
        private = _opened(roster, lost, {who: told.keys for who, told in shares.items()})
        if primitives.public_of(private) != to_bytes(roster.cards[lost].masks):
            raise SecureError(_wrong(lost, "key"))
        for client in survivors:
            public = to_bytes(roster.cards[client].masks)
            primitives.add_mask(total, pair_mask(roster.token, private, public, lost, client), -sign_of(client, lost))
    return total


def _opened(roster: Roster, client: str, told: Mapping[str, Mapping[str, str]]) -> bytes:
    """The secret of a client, from as many shares of it as are needed."""
    helping = [who for who in sorted(told) if client in told[who]][: roster.threshold]
    check_enough(helping, roster.threshold, f"told their share of {client}")
    return primitives.joined({roster.place(who): to_bytes(told[who][client]) for who in helping})


def _wrong(client: str, what: str) -> str:
    return f"the shares of {client}'s {what} do not fit: one was changed; nothing was revealed"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:  # Any: dataclasses in, plain values out
    return {name: asdict(value) for name, value in values.items()}
