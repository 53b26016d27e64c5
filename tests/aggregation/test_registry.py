from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass

import pytest

from polyrank.aggregation import METHODS, build, options
from polyrank.aggregation.methods.replication import Replication
from polyrank.core.errors import ConfigError


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_listed_under_its_own_name_and_builds_from_it(name: str):
    method = build(name)
    assert METHODS[name].info.name == name
    assert isinstance(method, METHODS[name])
    assert method == METHODS[name]()
    assert METHODS[name].info.averages
    assert METHODS[name].info.paper.startswith("https://") or name in ("tempered", "shrinkage", "validated", "spectral")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_frozen_dataclass_and_documented(name: str):
    cls = METHODS[name]
    assert is_dataclass(cls)
    assert cls.__doc__
    assert not cls.__doc__.startswith(cls.__name__ + "("), "the docstring is the one that dataclass generates"
    for option in fields(cls):
        with pytest.raises(FrozenInstanceError):
            setattr(cls(), option.name, None)
        assert f"{option.name}:" in cls.__doc__, f"{name}: the option {option.name} is not documented"


def test_what_the_registry_says_of_methods():
    """docs/methods.md, sections 2 to 4."""
    by_exactness: dict[str, set[str]] = {}
    for name, cls in METHODS.items():
        by_exactness.setdefault(cls.info.exact, set()).add(name)
    assert by_exactness.keys() == {"no", "up to rank R", "yes"}
    assert by_exactness["yes"] == {"flora", "fedex", "ffa", "rolora", "fedsvd"}
    assert by_exactness["up to rank R"] == {"flexlora"}
    assert {name for name, cls in METHODS.items() if cls.info.equal_ranks} == {"fedavg"}
    assert {name for name, cls in METHODS.items() if cls.info.changes_base} == {"flora", "florist", "fedhl", "fedex"}
    assert not any(cls.info.fixed_sums for cls in METHODS.values() if cls.info.changes_base)


def test_options_are_passed_on():
    assert build("replication", {"donor": "owners", "min_owners": 2}) == Replication("owners", min_owners=2)
    assert options("replication").keys() == {"donor", "min_owners", "align"}


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no aggregation method 'replicaton': did you mean 'replication'\?"):
        build("replicaton")


def test_an_unknown_method_without_a_near_one_names_all():
    with pytest.raises(ConfigError) as error:
        build("qqq")
    assert all(name in str(error.value) for name in METHODS)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ConfigError, match=r"replication has no option 'donors': did you mean 'donor'\?"):
        build("replication", {"donors": "highest"})


def test_an_unknown_option_without_a_near_one_names_all():
    with pytest.raises(ConfigError, match="tempered has no option 'xyz': known: align, gamma, min_owners"):
        build("tempered", {"xyz": 1})


def test_an_option_of_a_method_without_options():
    with pytest.raises(ConfigError, match="raflora has no option 'donor': it has no options"):
        build("raflora", {"donor": "highest"})


@pytest.mark.parametrize(
    ("name", "values", "parts"),
    [
        ("replication", {"donor": "lowest"}, ["replication, option donor", "'lowest'", "'highest'", "'owners'"]),
        ("owner_mean", {"min_owners": "many"}, ["owner_mean, option min_owners", "'many'", "integer"]),
        ("owner_mean", {"min_owners": 1.5}, ["owner_mean, option min_owners", "1.5", "integer"]),
        ("hetlora", {"per_layer": "perhaps"}, ["hetlora, option per_layer", "'perhaps'", "boolean"]),
        ("fedavg", {"align": "rotate"}, ["fedavg, option align", "'rotate'", "'rotation'", "'rectangular'"]),
        ("flora", {"max_rank": 2.5}, ["flora, option max_rank", "2.5", "integer"]),
        ("flora", {"max_rank": 0}, ["flora", "max_rank is 0", "1 or more"]),
        ("fedhl", {"weights": "norm"}, ["fedhl, option weights", "'norm'", "'tail'", "'examples'"]),
        ("rolora", {"fill": "noise"}, ["rolora, option fill", "'noise'", "'zeros'", "'owners'"]),
        ("tempered", {"gamma": -1}, ["tempered", "gamma is -1", "0 or more"]),
        ("tempered", {"gamma": float("nan")}, ["tempered", "gamma is nan"]),
        ("tempered", {"gamma": float("inf")}, ["tempered", "gamma is inf"]),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(name: str, values: dict[str, object], parts: list[str]):
    with pytest.raises(ConfigError) as error:
        build(name, values)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)
