"""The figures of the privacy study."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks import privacy


def test_auc_is_that_of_mann_and_whitney():
    random = np.random.default_rng(0)
    members, others = random.standard_normal(50) + 0.5, random.standard_normal(70)
    expected = stats.mannwhitneyu(members, others).statistic / (50 * 70)
    assert privacy.auc(members, others) == pytest.approx(expected)
    low, high = privacy.interval(members, others)
    assert low < expected < high


def test_every_configuration_of_the_study_is_valid():
    for method, (_, clip) in privacy.PLAN.items():
        for budget in privacy.BUDGETS:
            more = [f"aggregation.method={method}", *privacy.privately(budget, clip)]
            assert privacy.config_of("stdlib-docs", None, more).privacy.budget == budget


def test_the_table_has_a_row_for_each_method_and_a_column_for_each_budget():
    runs = [
        {"data": "d", "method": "ffa", "budget": b, "seed": s, "accuracy": 0.5 + s / 10, "constant": 0.2}
        for b in (None, 1.0)
        for s in (0, 1)
    ]
    table = privacy.accuracy_table(runs)
    assert "| method | without privacy | epsilon 1 |" in table
    assert "| `ffa` | 55.0 ± 7.1 | 55.0 ± 7.1 |" in table
