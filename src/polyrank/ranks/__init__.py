"""Who gets which rank: one file per policy, one registry."""

from __future__ import annotations

from polyrank.ranks.declared import Declared
from polyrank.ranks.levels import level_counts, scale_of
from polyrank.ranks.policy import RankPolicy
from polyrank.ranks.registry import POLICIES, policy

__all__ = ["POLICIES", "Declared", "RankPolicy", "level_counts", "policy", "scale_of"]
