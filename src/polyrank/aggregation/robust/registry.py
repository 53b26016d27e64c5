"""Every robust rule, by name. A new one costs its file and one line here."""

from __future__ import annotations

from polyrank.aggregation.robust.geometric_median import GeometricMedian
from polyrank.aggregation.robust.krum import Krum
from polyrank.aggregation.robust.median import Median
from polyrank.aggregation.robust.norm import Norm
from polyrank.aggregation.robust.rule import Rule
from polyrank.aggregation.robust.trimmed import Trimmed
from polyrank.core.registry import Registry

NO_RULE = "none"
"""Every update is added up as it comes."""

_CLASSES: tuple[type[Rule], ...] = (Norm, Median, Trimmed, GeometricMedian, Krum)

RULES: Registry[Rule] = Registry(
    "robust rule",
    {cls.name: cls for cls in _CLASSES},
    group="polyrank.robust_rules",
    base=Rule,
    name_of=lambda cls: cls.name,
)
