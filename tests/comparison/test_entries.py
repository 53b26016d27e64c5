from __future__ import annotations

from pathlib import Path

import pytest

from polyrank import aggregation, config
from polyrank.comparison.entries import DEFAULT_METHODS, entries, homogeneous_ranks
from polyrank.core.errors import ConfigError
from polyrank.tasks import settled
from tests.conftest import Configure


def test_methods_share_everything_but_aggregation():
    common = settled(config.load(None, ["training.lr=1e-4"]))
    one, other = entries(common, ["replication", "zero_padding:keep_unowned=true"])
    assert (one.name, other.name) == ("replication", "zero_padding-keep_unowned-True")
    assert other.config.aggregation.options == {"keep_unowned": True}
    for entry in (one, other):
        assert entry.config.model_copy(update={"aggregation": common.aggregation}) == common
    assert other.seeded(7).federation.seed == 7


def test_options_have_the_types_of_toml():
    (entry,) = entries(config.load(), ["tempered:gamma=0.25:min_owners=2:align=rotation"])
    method = aggregation.build(entry.config.aggregation.method, entry.config.aggregation.options)
    assert (method.method.gamma, method.method.min_owners, method.how) == (0.25, 2, "rotation")


def test_the_configurations_own_method_keeps_its_options():
    common = config.load(None, ["aggregation.method=tempered", "aggregation.options.gamma=0.1"])
    plain, other, changed = entries(common, ["tempered", "replication", "tempered:gamma=1.0"])
    assert plain.config.aggregation.options == {"gamma": 0.1}
    assert other.config.aggregation.options == {}
    assert changed.config.aggregation.options == {"gamma": 1.0}


def test_methods_are_compared_under_the_same_robust_rule():
    common = config.load(None, ["aggregation.robust=median", "aggregation.robust_options.hostile=0.2"])
    for entry in entries(common, ["replication", "fedavg"], [4]):
        assert entry.config.aggregation.robust == "median"
        assert entry.config.aggregation.robust_options == {"hostile": 0.2}
    with pytest.raises(ConfigError, match="flexlora does not average rows"):
        entries(common, ["flexlora"])


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


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    """Rows of five sites, two labels each."""
    rows = [f"text {i} of {site},{label},{site}" for site in "abcde" for i in range(4) for label in "xy"]
    (tmp_path / "sites.csv").write_text("\n".join(["text,label,site", *rows]) + "\n", encoding="utf-8")
    return tmp_path / "sites.csv"


@pytest.mark.parametrize("policy", ["fixed", "self_pruning"])
def test_ranks_by_name_count_in_the_baseline(policy: str):
    """Two of four clients at 32 and the others at 4 are 18 on average; all of them at 32 are one rank."""
    common = ("federation.clients=4", f"ranks.policy={policy}", "ranks.levels=[4]")
    half = "ranks.by_name={client-00 = 32, client-03 = 32}"
    every = f"ranks.by_name={{{', '.join(f'client-0{i} = 32' for i in range(4))}}}"
    assert homogeneous_ranks(config.load(None, [*common, half])) == [4, 18, 32]
    assert homogeneous_ranks(config.load(None, [*common, every])) == [32]


def test_ranks_of_groups_count_in_the_baseline():
    """Half of 10 clients are balanced and have 32, the others 4. One name on top: (5 * 32 + 4 * 4 + 8) / 10 is 18.4, or
    (4 * 32 + 5 * 4 + 8) / 10 is 15.6 where client 0 is a balanced one: a client's own name goes before its group's."""
    common = ["federation.clients=10", "data.balanced_share=0.5", "ranks.policy=fixed", "ranks.levels=[4]"]
    assert homogeneous_ranks(config.load(None, [*common, "ranks.by_name={balanced = 32}"])) == [4, 18, 32]
    both = [*common, "ranks.by_name={balanced = 32, client-00 = 8}"]
    assert homogeneous_ranks(config.load(None, both))[1] in (19, 16)


def test_sites_of_a_column_are_counted(sites: Path):
    """Four at 5 and one at 20 are 40 / 5 = 8, by counts, or by the default shares of five: 4.5 and 0.5, so 4 and 1.

    Sites a and b at 32, the others at 4: 76 / 5 = 15.2. A policy that scores holds texts back, and nobody is lost.
    """
    column = ("data.partition=by-column", "data.column=site", "data.test_share=0.25")
    data = (*column, f"data.train={sites}")
    assert homogeneous_ranks(config.load(None, [*column, "ranks.counts=[4, 1]"])) == [5, 8, 20]
    assert homogeneous_ranks(config.load(None, [*data, "ranks.policy=random"])) == [5, 8, 20]
    assert homogeneous_ranks(config.load(None, [*data, "ranks.validation_per_label=2"])) == [5, 8, 20]
    named = ("ranks.policy=fixed", "ranks.levels=[4]", "ranks.by_name={a = 32, b = 32}")
    assert homogeneous_ranks(config.load(None, [*data, *named])) == [4, 16, 32]


def test_a_baseline_is_refused_as_the_run_would_be():
    wrong = ("federation.clients=4", "ranks.policy=fixed", "ranks.levels=[4]", "ranks.by_name={client-0 = 32}")
    with pytest.raises(ConfigError, match="no client or group is called 'client-0'"):
        homogeneous_ranks(config.load(None, wrong))
    with pytest.raises(ConfigError, match="5 in all; expected 6 clients"):
        homogeneous_ranks(config.load(None, ["federation.clients=6", "ranks.counts=[4, 1]"]))


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


def test_where_one_method_holds_out_data_all_do(configure: Configure):
    """Unless the rank policy does it already, and the configuration says no more than it did."""
    together, without = (entries(configure(), methods) for methods in (["replication", "validated"], ["replication"]))
    assert [entry.config.data.hold_out for entry in together] == [True, True]
    assert [entry.config.data.hold_out for entry in without] == [False]
    scored = entries(configure("ranks.policy=validation"), ["replication", "validated"])
    assert not any(entry.config.data.hold_out for entry in scored)
