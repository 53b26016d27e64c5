from __future__ import annotations

import math

import pytest

from polyrank.config import RanksConfig
from polyrank.core.errors import ConfigError
from polyrank.ranks import policy
from polyrank.ranks.validation import Validation

CLIENTS = ("d", "b", "a", "c", "e")
POLICY = policy(RanksConfig(counts=[3, 2]))
START = dict.fromkeys(sorted(CLIENTS), 5)


def promoted(losses: dict[str, float]) -> set[str]:
    ranks = POLICY.assign(START, losses)
    assert ranks.keys() == START.keys()
    return {client for client, rank in ranks.items() if rank == 20}


def test_it_is_the_default_and_everyone_starts_at_the_lowest_level():
    assert isinstance(POLICY, Validation)
    assert POLICY.scores
    assert POLICY.start(CLIENTS, {}, 0) == START


def test_the_best_are_promoted():
    assert promoted({"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.4, "e": 0.7}) == {"b", "d"}


def test_equal_losses_go_by_name():
    """b is best; a, c and d are equal, so a has the second place."""
    assert promoted({"d": 0.5, "c": 0.5, "a": 0.5, "b": 0.1, "e": 0.9}) == {"a", "b"}


def test_a_client_without_a_finite_loss_comes_last():
    """a and b diverged, c was never scored: d and e are left, however bad."""
    assert promoted({"a": math.nan, "b": math.inf, "d": 1e30, "e": 99.0}) == {"d", "e"}


def test_three_levels_are_given_out_from_the_best_down():
    chosen = policy(RanksConfig(levels=[2, 4, 8], counts=[2, 2, 1]))
    losses = {"a": 0.5, "b": 0.4, "c": 0.3, "d": 0.2, "e": 0.1}
    assert chosen.assign(dict.fromkeys(losses, 2), losses) == {"e": 8, "d": 4, "c": 4, "b": 2, "a": 2}


def test_wrong_counts_are_an_error_before_the_scoring():
    with pytest.raises(ConfigError, match="expected 4 clients"):
        POLICY.start(CLIENTS[:4], {}, 0)
