"""A client's side of a secure sum: four steps, each from what it remembers to what it remembers next and tells.

It tells shares once: of a seed for those in the sum, or of a key for those that are not, never of both, and only where
enough others are in it. Whoever keeps its memory forgets it then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polyrank.core.errors import SecureError
from polyrank.secure import primitives
from polyrank.secure.values import Card, Hex, Roster, Shares, Together, check_enough, to_bytes


@dataclass(frozen=True)
class Opened:
    """What a client remembers once it has published its card; all of it is secret.

    Args:
        token: of the attempt.
        client: its name.
        masks: private key.
        sealing: private key.
        seed: of its own mask.
    """

    token: str
    client: str
    masks: Hex
    sealing: Hex
    seed: Hex

    @property
    def card(self) -> Card:
        """What of it is public."""
        masks, sealing = (primitives.public_of(to_bytes(key)).hex() for key in (self.masks, self.sealing))
        return Card(masks, sealing, primitives.commitment(to_bytes(self.seed)).hex())


@dataclass(frozen=True)
class Shared:
    """What it remembers once it has shared out its secrets.

    Args:
        opened: what it had before.
        roster: who takes part.
        own: its share of its own seed.
    """

    opened: Opened
    roster: Roster
    own: Hex


@dataclass(frozen=True)
class Sent:
    """What it remembers once its masked numbers are sent.

    Args:
        token: of the attempt.
        client: its name.
        threshold: clients without whom it tells nothing.
        seeds: client -> its share of that client's seed.
        keys: client -> its share of that client's key; not its own.
        together: whose values are summed apart.
    """

    token: str
    client: str
    threshold: int
    seeds: Mapping[str, Hex]
    keys: Mapping[str, Hex]
    together: Together


def opened(token: str, client: str) -> Opened:
    """New secrets for one sum."""
    masks, sealing, seed = (primitives.fresh().hex() for _ in range(3))
    return Opened(token, client, masks, sealing, seed)


def shared(state: Opened, roster: Roster) -> tuple[Shared, dict[str, str]]:
    """Share out the secrets: what to remember, and for each other client the shares that only it can read.

    Raises:
        SecureError: the roster is of another attempt, its threshold is no majority, or its cards are not those of as
            many clients, this one among them.
    """
    count = len(roster.cards)
    if roster.token != state.token or roster.cards.get(state.client) != state.card:
        raise SecureError("the roster is of another attempt, or has another card of this client")
    if not count < 2 * roster.threshold <= 2 * count:
        raise SecureError(f"the threshold is {roster.threshold} of {count} clients; expected more than half of them")
    if len({key for card in roster.cards.values() for key in (card.masks, card.sealing)}) != 2 * count:
        raise SecureError("two cards of the roster have the same key")
    places = [primitives.split(to_bytes(secret), roster.threshold, count) for secret in (state.seed, state.masks)]
    told, own = {}, ""
    for client, seed, key in zip(sorted(roster.cards), *places, strict=True):
        if client == state.client:
            own = seed.hex()
        else:
            about = _about(state.token, state.client, client)
            told[client] = primitives.sealed(_seal(state, roster.cards[client]), seed + key, about).hex()
    return Shared(state, roster, own), told


def masked(state: Shared, inbox: Mapping[str, str], vector: np.ndarray, together: Together) -> tuple[Sent, np.ndarray]:
    """Mask a contribution: what to remember, and the numbers that are sent.

    Args:
        state: what the client remembers.
        inbox: client -> what it sealed for this one, of all others that shared out their secrets.
        vector: the contribution, of a `Ring`.
        together: whose values are summed apart.

    Raises:
        SecureError: too few others have shared out their secrets, or what one of them sealed was changed.
    """
    opened, roster = state.opened, state.roster
    if strangers := sorted(inbox.keys() - (roster.cards.keys() - {opened.client})):
        raise SecureError(f"{strangers[0][:60]!r} is no other client of the roster")
    sharers = sorted({*inbox, opened.client})
    check_enough(sharers, roster.threshold, "have shared out their secrets")
    together.check(sharers)
    seeds, keys = {opened.client: state.own}, {}
    total = vector.copy()
    primitives.add_mask(total, own_mask(opened.token, to_bytes(opened.seed)), 1)
    for other, text in inbox.items():
        card, about = roster.cards[other], _about(opened.token, other, opened.client)
        shares = primitives.unsealed(_seal(opened, card), to_bytes(text), about)
        if len(shares) != 2 * primitives.SECRET:
            raise SecureError(f"{other} sealed {len(shares)} bytes of shares; expected {2 * primitives.SECRET}")
        seeds[other], keys[other] = shares[: primitives.SECRET].hex(), shares[primitives.SECRET :].hex()
        key = pair_mask(opened.token, to_bytes(opened.masks), to_bytes(card.masks), opened.client, other)
        primitives.add_mask(total, key, sign_of(opened.client, other))
    return Sent(opened.token, opened.client, roster.threshold, seeds, keys, together), total


def told(state: Sent, survivors: Sequence[str]) -> Shares:
    """The shares that open the sum of the survivors.

    Raises:
        SecureError: they are too few, or none that the client knows, or a group of them is too small.
    """
    there = set(survivors)
    if not {state.client} <= there <= state.seeds.keys():
        raise SecureError("those in the sum have to be clients that shared out their secrets, this one among them")
    check_enough(there, state.threshold, "are in the sum")
    state.together.check(there)
    seeds = {client: share for client, share in state.seeds.items() if client in there}
    return Shares(seeds, {client: share for client, share in state.keys.items() if client not in there})


# What both sides derive ----------------------------------------------------------------------------------------------


def own_mask(token: str, seed: bytes) -> bytes:
    """The key of a client's own mask."""
    return primitives.derived(seed, f"polyrank own mask {token}")


def pair_mask(token: str, private: bytes, public: bytes, one: str, other: str) -> bytes:
    """The key of a pair's mask, the same for both of them."""
    return primitives.agreed(private, public, f"polyrank pair mask {token} {sorted((one, other))}")


def sign_of(client: str, other: str) -> int:
    """Whether a client adds the pair's mask or takes it away."""
    return 1 if client < other else -1


def _seal(state: Opened, card: Card) -> bytes:
    return primitives.agreed(to_bytes(state.sealing), to_bytes(card.sealing), f"polyrank shares {state.token}")


def _about(token: str, sender: str, receiver: str) -> str:
    return f"shares of {sender!r} for {receiver!r} in {token}"
