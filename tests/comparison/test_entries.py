from __future__ import annotations

import pytest

from polyrank import aggregation, config
from polyrank.comparison.entries import DEFAULT_METHODS, entries, homogeneous_ranks
from polyrank.errors import ConfigError


def test_methods_share_everything_but_aggregation():
    common = config.load(None, ["training.lr=1e-4"])
    one, other = entries(common, ["replication", "zero_padding:keep_unowned=true"])
    assert (one.name, other.name) == ("replication", "zero_padding-keep_unowned-True")
    assert other.config.aggregation.options == {"keep_unowned": True}
    for entry in (one, other):
        assert entry.config.model_copy(update={"aggregation": common.aggregation}) == common
    assert other.seeded(7).federation.seed == 7


def test_options_have_the_types_of_toml():
    (entry,) = entries(config.load(), ["tempered:gamma=0.25:min_owners=2:align=rotation"])
    method = aggregation.build(entry.config.aggregation.method, entry.config.aggregation.options)
    assert (method.gamma, method.min_owners, method.align) == (0.25, 2, "rotation")


def test_the_configurations_own_method_keeps_its_options():
    common = config.load(None, ["aggregation.method=tempered", "aggregation.options.gamma=0.1"])
    plain, other, changed = entries(common, ["tempered", "replication", "tempered:gamma=1.0"])
    assert plain.config.aggregation.options == {"gamma": 0.1}
    assert other.config.aggregation.options == {}
    assert changed.config.aggregation.options == {"gamma": 1.0}


def test_a_method_for_equal_ranks_comes_once_per_rank():
    """Byun and Lee: a tenth at 20 and the others at 5 is 6.5 on average; their baseline, and ours, is 7."""
    found = entries(config.load(), ["fedavg"])
    assert [entry.name for entry in found] == ["fedavg-rank-5", "fedavg-rank-7", "fedavg-rank-20"]
    assert [entry.config.ranks.levels for entry in found] == [[5], [7], [20]]
    assert [entry.name for entry in entries(config.load(), ["fedavg"], [3])] == ["fedavg-rank-3"]
    assert entries(config.load(), ["fedavg"], []) == []


@pytest.mark.parametrize(
    ("levels", "shares", "expected"),
    [
        ("[4, 8, 16, 32]", "[0.25, 0.25, 0.25, 0.25]", [4, 15, 32]),
        ("[8]", "[1.0]", [8]),
        ("[4, 8]", "[0.5, 0.5]", [4, 6, 8]),
        ("[1, 2]", "[0.5, 0.5]", [1, 2]),
    ],
)
def test_homogeneous_ranks(levels: str, shares: str, expected: list[int]):
    """(4 + 8 + 16 + 32) / 4 = 15; one level is its own mean; (1 + 2) / 2 = 1.5 is rounded up to the highest."""
    assert homogeneous_ranks(config.load(None, [f"ranks.levels={levels}", f"ranks.shares={shares}"])) == expected


def test_a_baseline_forgets_who_had_which_rank():
    common = config.load(None, ["ranks.policy=fixed", "ranks.by_name={balanced = 20}", "ranks.counts=[90, 10]"])
    (entry,) = entries(common, ["fedavg"], [7])
    assert (entry.config.ranks.by_name, entry.config.ranks.counts) == ({}, None)


def test_the_default_methods_exist():
    assert set(DEFAULT_METHODS) <= aggregation.METHODS.keys()
    assert "replication" in DEFAULT_METHODS


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["replicaton"], "did you mean 'replication'"),
        (["tempered:gama=1"], "did you mean 'gamma'"),
        (["tempered:gamma"], "expected name:option=value"),
        (["replication", "replication"], "comes 2 times"),
    ],
)
def test_what_is_refused(methods: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        entries(config.load(), methods)
