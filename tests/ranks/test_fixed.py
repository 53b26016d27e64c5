from __future__ import annotations

import pytest

from polyrank.config import RanksConfig
from polyrank.core.errors import ConfigError
from polyrank.ranks import policy
from polyrank.ranks.fixed import Fixed

CLIENTS = ("d", "b", "a", "c")
GROUPS = {"a": "skewed", "b": "balanced", "c": "skewed", "d": "balanced"}


def ranks(**settings: object) -> dict[str, int]:
    config = RanksConfig.model_validate({"policy": "fixed", "counts": [3, 1]} | settings)
    chosen = policy(config)
    assert isinstance(chosen, Fixed)
    assert not chosen.scores
    start = chosen.start(CLIENTS, GROUPS, 0)
    assert chosen.assign(start, {"a": 0.0}) == start
    return start


def test_the_highest_level_goes_to_the_first_names():
    assert ranks() == {"a": 20, "b": 5, "c": 5, "d": 5}
    three = {"levels": [2, 4, 8], "counts": [1, 2, 1]}
    assert ranks(**three) == {"a": 8, "b": 4, "c": 4, "d": 2}


def test_single_clients_are_set_by_name_to_any_rank():
    assert ranks(by_name={"c": 7}) == {"a": 20, "b": 5, "c": 7, "d": 5}


def test_groups_are_set_by_name_and_a_client_goes_before_its_group():
    assert ranks(by_name={"balanced": 32, "d": 1}) == {"a": 20, "b": 32, "c": 5, "d": 1}


def test_a_name_that_nobody_has_is_an_error_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"no client or group is called 'balancd': did you mean 'balanced'\?"):
        ranks(by_name={"balancd": 8})


def test_clients_without_groups_can_be_named():
    config = RanksConfig(policy="fixed", by_name={"a": 3})
    assert policy(config).start(["a", "b"], {}, 0) == {"a": 3, "b": 5}
