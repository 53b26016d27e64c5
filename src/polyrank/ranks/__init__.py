"""Who gets which rank: one file per policy, one registry."""

from __future__ import annotations

from collections.abc import Mapping

from polyrank.config import RanksConfig
from polyrank.ranks.declared import Declared
from polyrank.ranks.fixed import Fixed
from polyrank.ranks.levels import level_counts, scale_of
from polyrank.ranks.policy import RankPolicy
from polyrank.ranks.random import Random
from polyrank.ranks.self_pruning import SelfPruning
from polyrank.ranks.validation import Validation

POLICIES: Mapping[str, type[RankPolicy]] = {
    "fixed": Fixed,
    "random": Random,
    "validation": Validation,
    "self_pruning": SelfPruning,
}


def policy(config: RanksConfig) -> RankPolicy:
    """The policy that the configuration names."""
    return POLICIES[config.policy](config)


__all__ = ["POLICIES", "Declared", "RankPolicy", "level_counts", "policy", "scale_of"]
