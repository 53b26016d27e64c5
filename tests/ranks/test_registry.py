from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from polyrank.config import RanksConfig
from polyrank.core.errors import ConfigError
from polyrank.core.registry import Registry
from polyrank.ranks import POLICIES, RankPolicy, policy
from polyrank.ranks import registry as module


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_built_from_its_name(name: str):
    config = RanksConfig(policy=name)
    assert policy(config) == POLICIES[name](config)


def test_an_unknown_policy_names_the_nearest():
    with pytest.raises(ConfigError, match=r"there is no rank policy 'validaton': did you mean 'validation'\?"):
        policy(RanksConfig(policy="validaton"))


@pytest.mark.parametrize("name", [name for name in POLICIES if not POLICIES[name].takes_names])
def test_names_for_a_policy_that_takes_none(name: str):
    with pytest.raises(ConfigError, match=f"policy {name}, which takes no names; expected fixed or self_pruning"):
        policy(RanksConfig(policy=name, by_name={"ann": 8}))


def test_options_of_a_policy_that_has_none():
    with pytest.raises(ConfigError, match="rank policy random has no option 'every': it has no options"):
        policy(RanksConfig(policy="random", options={"every": 2}))


@dataclass(frozen=True)
class Alternating(RankPolicy):
    """Every second client gets the highest level."""

    every: int = 2

    def start(self, clients: Sequence[str], groups: Mapping[str, str], seed: int) -> dict[str, int]:  # noqa: ARG002
        low, high = self.config.levels[0], self.config.levels[-1]
        return {client: high if i % self.every == 0 else low for i, client in enumerate(sorted(clients))}


def test_a_policy_of_ones_own_has_options_in_the_configuration(monkeypatch: pytest.MonkeyPatch):
    """Every third of four clients: the first and the fourth."""
    own: Registry[RankPolicy] = Registry("rank policy", {**POLICIES, "alternating": Alternating}, given=("config",))
    monkeypatch.setattr(module, "POLICIES", own)
    chosen = policy(RanksConfig(policy="alternating", options={"every": 3}))
    assert chosen.start("abcd", {}, 0) == {"a": 20, "b": 5, "c": 5, "d": 20}
    with pytest.raises(ConfigError, match="rank policy alternating, option every: found 'x'"):
        policy(RanksConfig(policy="alternating", options={"every": "x"}))
    with pytest.raises(ConfigError, match="rank policy alternating, option every: found True; expected int"):
        policy(RanksConfig(policy="alternating", options={"every": True}))
    with pytest.raises(ConfigError, match="rank policy alternating has no option 'config'"):
        policy(RanksConfig(policy="alternating", options={"config": 1}))
