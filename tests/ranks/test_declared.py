from __future__ import annotations

import pytest

from polyrank import ranks
from polyrank.config import RanksConfig
from polyrank.core.errors import ConfigError
from polyrank.ranks import Declared

NODES = [f"n{i}" for i in range(10)]
LOSSES = {name: float(i) for i, name in enumerate(NODES)}


def declared(own: dict[str, int], **config: object) -> Declared:
    found = RanksConfig.model_validate({"policy": "validation", "levels": [5, 20], **config})
    return Declared(found, inner=ranks.policy(found), ranks=own)


@pytest.mark.parametrize("counted", [{}, {"counts": [8, 1]}, {"shares": [0.9, 0.1]}])
def test_who_declares_a_rank_takes_no_place(counted: dict[str, object]):
    """Ten nodes; n0 declares 5 and scores best. Of the nine others n1 is the best: the one high place is its."""
    policy = declared({"n0": 5}, **counted)
    start = policy.start(NODES, {}, 0)
    assert start == dict.fromkeys(NODES, 5)
    assert policy.assign(start, LOSSES) == {**dict.fromkeys(NODES, 5), "n1": 20}


def test_places_are_counted_for_the_others_before_anyone_is_scored():
    """Ten are counted for and nine declare nothing: an error at the start, which says why."""
    policy = declared({"n0": 5}, counts=[9, 1])
    with pytest.raises(ConfigError, match=r"expected 9 clients \(1 of 10 clients declare a rank of their own"):
        policy.start(NODES, {}, 0)


def test_all_may_declare():
    policy = declared(dict.fromkeys(NODES, 7), counts=[9, 1])
    assert policy.assign(policy.start(NODES, {}, 0), LOSSES) == dict.fromkeys(NODES, 7)


def test_a_rank_by_name_gives_way_to_the_declared_one():
    """n0 declares 3 against 20 by name, and n1 has 20 by name; a name that nobody has is still an error."""
    config = RanksConfig(policy="fixed", levels=[5], by_name={"n0": 20, "n1": 20})
    policy = Declared(config, inner=ranks.policy(config), ranks={"n0": 3})
    assert policy.start(["n0", "n1", "n2"], {}, 0) == {"n0": 3, "n1": 20, "n2": 5}
    with pytest.raises(ConfigError, match="no client or group is called 'n1'"):
        policy.start(["n0", "n2"], {}, 0)
