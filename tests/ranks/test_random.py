from __future__ import annotations

from collections import Counter

from polyrank.config import RanksConfig
from polyrank.ranks import policy
from polyrank.ranks.random import Random

CLIENTS = [f"client-{i:02d}" for i in range(20)]
POLICY = policy(RanksConfig(policy="random", levels=[2, 4, 8], shares=[0.5, 0.3, 0.2]))


def test_each_level_gets_exactly_its_number():
    """Half, three and two tenths of 20 are 10, 6 and 4."""
    assert isinstance(POLICY, Random)
    assert Counter(POLICY.start(CLIENTS, {}, 0).values()) == {2: 10, 4: 6, 8: 4}


def test_the_seed_alone_decides():
    first = POLICY.start(CLIENTS, {}, 0)
    assert POLICY.start(CLIENTS[::-1], {"client-00": "balanced"}, 0) == first
    assert POLICY.start(CLIENTS, {}, 1) != first
    assert POLICY.assign(first, {"client-00": 0.0}) == first
    assert not POLICY.scores


def test_every_client_can_get_every_level():
    found = {client: {POLICY.start(CLIENTS, {}, seed)[client] for seed in range(60)} for client in CLIENTS}
    assert all(levels == {2, 4, 8} for levels in found.values())
