"""The four steps of a secure sum: what comes out, what the server sees of it, and what follows when somebody is lost or
lies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from polyrank.core.errors import SecureError
from polyrank.secure import client as member
from polyrank.secure.attempt import unmasked
from polyrank.secure.values import Card, Roster, Shares, Together
from tests.secure.parties import Parties, added, some

NAMES = [f"c{i}" for i in range(6)]


@pytest.mark.parametrize("bits", [32, 64])
def test_the_sum_is_exact_modulo_the_ring(bits: int):
    vectors = {client: vector.astype(f"uint{bits}") - 50 for client, vector in some(6).items()}
    total, survivors = Parties(vectors).total(4)
    assert survivors == tuple(NAMES)
    np.testing.assert_array_equal(total, added(vectors, NAMES))


LOST = [
    ({"cards": {"c1"}}, {"c1"}),
    ({"sealed": {"c2"}}, {"c2"}),
    ({"masked": {"c3"}}, {"c3"}),
    ({"shares": {"c4"}}, set()),
    ({"cards": {"c0"}, "sealed": {"c5"}}, {"c0", "c5"}),
    ({"masked": {"c0", "c5"}}, {"c0", "c5"}),
    ({"masked": {"c1"}, "shares": {"c0"}}, {"c1"}),
]


@pytest.mark.parametrize(("lost", "without"), LOST)
def test_who_drops_out_at_a_step_is_made_up_for(lost: Mapping[str, set[str]], without: set[str]):
    """Of six clients four must stay: the sum is that of those who sent their masked numbers."""
    vectors = some(6)
    total, survivors = Parties(vectors, lost).total(4)
    assert set(survivors) == set(NAMES) - without
    np.testing.assert_array_equal(total, added(vectors, survivors))


@pytest.mark.parametrize("step", ["cards", "sealed", "masked", "shares"])
def test_below_the_threshold_nothing_is_revealed(step: str):
    parties = Parties(some(6), {step: {"c0", "c1", "c2"}})
    with pytest.raises(SecureError, match=r"3 clients .*expected 4 .*nothing was revealed"):
        parties.total(4)


@pytest.mark.parametrize("step", ["sealed", "masked"])
def test_a_group_that_becomes_too_small_is_not_summed(step: str):
    """c4 and c5 alone own some rows. When one of them is lost, the other's would be seen."""
    groups = (tuple(NAMES), ("c4", "c5"))
    with pytest.raises(SecureError, match=r"^1 of the 2 clients .*secure.min_owners.*nothing was revealed"):
        Parties(some(6), {step: {"c5"}}, groups=groups).total(4)
    total, survivors = Parties(some(6), {step: {"c4", "c5"}}, groups=groups).total(4)
    assert survivors == ("c0", "c1", "c2", "c3")
    np.testing.assert_array_equal(total, added(some(6), survivors))


def _other(share: str) -> str:
    return f"{int(share[:2], 16) ^ 1:02x}{share[2:]}"


def test_a_changed_share_of_a_seed_is_found():
    def changed(told: Mapping[str, Shares]) -> dict[str, Shares]:
        seeds = {**told["c1"].seeds, "c2": _other(told["c1"].seeds["c2"])}
        return {**told, "c1": Shares(seeds, told["c1"].keys)}

    with pytest.raises(SecureError, match=r"c2's seed do not fit.*nothing was revealed"):
        Parties(some(6), changed={"shares": changed}).total(4)


def test_a_changed_share_of_a_lost_clients_key_is_found():
    def changed(told: Mapping[str, Shares]) -> dict[str, Shares]:
        return {**told, "c1": Shares(told["c1"].seeds, {"c5": _other(told["c1"].keys["c5"])})}

    with pytest.raises(SecureError, match=r"c5's key do not fit.*nothing was revealed"):
        Parties(some(6), {"masked": {"c5"}}, {"shares": changed}).total(4)


def test_shares_that_were_changed_on_their_way_are_found_by_the_client_they_are_for():
    """c0 is sealed other bytes by c1: it sends nothing, and the others' sum is opened."""

    def changed(boxes: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        return {**boxes, "c1": {**boxes["c1"], "c0": _other(boxes["c1"]["c0"])}}

    parties = Parties(some(6), changed={"sealed": changed})
    total, survivors = parties.total(4)
    assert survivors == tuple(NAMES[1:])
    assert "changed on the way" in parties.failures["c0"]
    np.testing.assert_array_equal(total, added(parties.vectors, survivors))


def test_shares_sealed_for_one_client_are_of_no_use_to_another():
    def crossed(boxes: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        return {**boxes, "c1": {**boxes["c1"], "c0": boxes["c1"]["c2"], "c2": boxes["c1"]["c0"]}}

    parties = Parties(some(6), changed={"sealed": crossed})
    _, survivors = parties.total(4)
    assert set(NAMES) - set(survivors) == {"c0", "c2"}


def _told(*groups: tuple[str, ...]) -> member.Sent:
    """What c0 remembers once it has sent its numbers, of four clients with the threshold 3."""
    opened = {client: member.opened("t", client) for client in NAMES[:4]}
    roster = Roster("t", 3, {client: one.card for client, one in opened.items()})
    shared = {client: member.shared(one, roster) for client, one in opened.items()}
    inbox = {client: box["c0"] for client, (_, box) in shared.items() if client != "c0"}
    sent, _ = member.masked(shared["c0"][0], inbox, np.zeros(4, np.uint32), Together((tuple(NAMES[:4]), *groups), 2))
    return sent


def test_a_client_tells_a_seed_or_a_key_and_never_both():
    told = member.told(_told(), ("c0", "c1", "c2"))
    assert told.seeds.keys() == {"c0", "c1", "c2"}
    assert told.keys.keys() == {"c3"}


@pytest.mark.parametrize("survivors", [("c0", "c1"), ("c1", "c2", "c3"), ("c0", "c1", "c9")])
def test_a_client_helps_to_open_no_sum_of_too_few_or_of_strangers(survivors: tuple[str, ...]):
    """Without itself in it, it would help to open what it is no part of."""
    with pytest.raises(SecureError, match=r"expected 3|have to be clients"):
        member.told(_told(), survivors)


def test_a_client_helps_to_open_no_sum_in_which_one_alone_has_its_rows():
    """Whatever the server that asks it has checked: c2 and c3 own rows of their own, and c3 is lost."""
    with pytest.raises(SecureError, match="1 of the 2 clients"):
        member.told(_told(("c2", "c3")), ("c0", "c1", "c2"))


def _as(roster: Roster, cards: Mapping[str, Card]) -> Roster:
    return replace(roster, cards={**roster.cards, **cards})


def test_a_client_takes_part_in_no_odd_roster():
    opened = {client: member.opened("t", client) for client in NAMES[:4]}
    cards = {client: one.card for client, one in opened.items()}
    good = Roster("t", 3, cards)
    member.shared(opened["c0"], good)
    for roster, why in (
        (replace(good, token="u"), "another attempt"),
        (_as(good, {"c0": cards["c1"]}), "another card"),
        (replace(good, threshold=2), "more than half"),
        (replace(good, threshold=5), "more than half"),
        (_as(good, {"c2": cards["c1"]}), "the same key"),
        (_as(good, {"c2": replace(cards["c2"], sealing="00" * 32)}), "none of X25519"),
        (_as(good, {"c2": replace(cards["c2"], sealing="xy")}), "hexadecimal"),
    ):
        with pytest.raises(SecureError, match=why):
            member.shared(opened["c0"], roster)


def test_all_that_the_server_receives_has_no_clients_numbers_in_it():
    """Contributions of small numbers, one of zeros alone: what comes is uniform in each bit, tells nothing of the plain
    one it belongs to, and neither do two of them together. The rest is keys and shares, too short for the numbers."""
    vectors = some(5, length=40_000) | {"c5": np.zeros(40_000, np.uint32)}
    parties = Parties(vectors, {"masked": {"c1"}})
    total, survivors = parties.total(4)
    cards, boxes, masked, shares = parties.seen
    for client, found in masked.items():
        assert np.mean(found == vectors[client]) < 1e-3
        for other in masked:
            if other != client:  # a pair's mask alone would vanish in the sum of the pair
                assert np.mean(found + masked[other] == vectors[client] + vectors[other]) < 1e-3
        counts = np.bincount(found.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 8 * np.sqrt(2 * 255)
        ones = np.unpackbits(found.view(np.uint8).reshape(-1, 4), axis=1).mean(axis=0)
        assert float(np.abs(ones - 0.5).max()) < 6 * 0.5 / np.sqrt(len(found))
        plain = vectors[client].view(np.int32).astype(float)
        if plain.any():
            correlation = np.corrcoef(found.astype(float), plain)[0, 1]
            assert abs(correlation) < 6 / np.sqrt(len(found))
    words = json.dumps([cards, boxes, shares], default=asdict)
    assert len(words) < 40_000
    assert not any(vectors[client][:8].tobytes().hex() in words for client in NAMES[:5])
    np.testing.assert_array_equal(total, added(vectors, survivors))


def test_the_same_numbers_are_masked_anew_in_every_attempt():
    first, second = Parties(some(4)), Parties(some(4))
    first.total(3)
    second.total(3)
    assert all(np.mean(first.seen[2][c] == second.seen[2][c]) < 1e-2 for c in NAMES[:4])


def test_too_few_shares_of_one_secret_open_nothing():
    """Three of four clients told theirs of c1's seed, and the threshold is 4."""
    parties = Parties(some(6))
    parties.total(4)
    _, _, masked, shares = parties.seen
    told = {
        client: Shares({c: s for c, s in one.seeds.items() if c != "c1"}, one.keys) for client, one in shares.items()
    }
    few = {**told, **{client: shares[client] for client in NAMES[:3]}}
    roster = Roster("attempt", 4, parties.seen[0])
    with pytest.raises(SecureError, match=r"3 clients told their share of c1, expected 4"):
        unmasked(roster, NAMES, masked, few)
