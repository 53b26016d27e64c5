"""What the two sides of a secure sum tell each other; bytes are written in hexadecimal digits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from pydantic import Field

from polyrank.core.errors import SecureError

Hex: TypeAlias = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=4096)]
Places: TypeAlias = Annotated[int, Field(ge=1, le=2**20)]


@dataclass(frozen=True)
class Card:
    """What a client publishes of itself for one sum.

    Args:
        masks: public key by which it agrees on masks; the private one is shared out.
        sealing: public key by which shares are sealed for it; the private one stays with it.
        seed: commitment to the seed of its own mask.
    """

    masks: Hex
    sealing: Hex
    seed: Hex


@dataclass(frozen=True)
class Roster:
    """Who takes part in a sum.

    Args:
        token: of this attempt; all that is derived or sealed is bound to it.
        threshold: clients without whom nothing is opened.
        cards: client -> its card.
    """

    token: str
    threshold: Places
    cards: Mapping[str, Card]

    def place(self, client: str) -> int:
        """A client's place among the shares, from 1."""
        return sorted(self.cards).index(client) + 1


@dataclass(frozen=True)
class Shares:
    """What a client tells in the end.

    Args:
        seeds: of clients that are in the sum: its share of the seed of their own mask.
        keys: of clients that dropped out: its share of the private key of their masks.
    """

    seeds: Mapping[str, Hex]
    keys: Mapping[str, Hex]


@dataclass(frozen=True)
class Together:
    """Whose values are summed apart from others': each group's sum is revealed.

    Args:
        groups: the clients of each.
        least: how many of a group must be in the sum, if any is.
    """

    groups: tuple[tuple[str, ...], ...]
    least: Places

    def check(self, clients: Iterable[str]) -> None:
        """Refuse a sum in which a group has too few clients.

        Raises:
            SecureError: one has.
        """
        there = set(clients)
        for group in self.groups:
            if 0 < (count := len(there & set(group))) < self.least:
                raise SecureError(
                    f"{count} of the {len(group)} clients whose values would be summed are left, expected "
                    f"{self.least} (secure.min_owners) or none: nothing was revealed"
                )


def to_bytes(text: str) -> bytes:
    """Bytes of hexadecimal digits.

    Raises:
        SecureError: they are none.
    """
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise SecureError(f"{text[:20]!r} are no bytes in hexadecimal digits") from None


def check_enough(found: Collection[str], threshold: int, what: str, why: Mapping[str, str] | None = None) -> None:
    """Refuse to go on with too few clients.

    Raises:
        SecureError: there are too few.
    """
    if (count := len(found)) < threshold:
        reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted((why or {}).items())[:5])
        raise SecureError(
            f"{count} clients {what}, expected {threshold} (secure.survivors): nothing was revealed"
            + (f" ({reasons})" if reasons else "")
        )
