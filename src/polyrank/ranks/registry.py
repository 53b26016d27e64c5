"""Every rank policy, by name. A new one costs its file and one line here."""

from __future__ import annotations

from polyrank.config import RanksConfig
from polyrank.core.errors import ConfigError
from polyrank.core.registry import Registry
from polyrank.ranks.fixed import Fixed
from polyrank.ranks.policy import RankPolicy
from polyrank.ranks.random import Random
from polyrank.ranks.self_pruning import SelfPruning
from polyrank.ranks.validation import Validation

POLICIES: Registry[RankPolicy] = Registry(
    "rank policy",
    {
        "fixed": Fixed,
        "random": Random,
        "validation": Validation,
        "self_pruning": SelfPruning,
    },
    given=("config",),
    group="polyrank.rank_policies",
    base=RankPolicy,
)


def policy(config: RanksConfig) -> RankPolicy:
    """The policy that the configuration names.

    Raises:
        ConfigError: there is none of this name, an option is unknown or wrong, or it takes no names and some are given.
    """
    chosen = POLICIES.build(config.policy, config.options, config=config)
    if config.by_name and not chosen.takes_names:
        able = " or ".join(name for name, cls in POLICIES.items() if cls.takes_names)
        raise ConfigError(f"ranks.by_name: found the policy {config.policy}, which takes no names; expected {able}")
    return chosen
