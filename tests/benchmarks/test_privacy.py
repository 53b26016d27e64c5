"""The figures of the privacy study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.tiny import tiny
from scipy import stats

from benchmarks import privacy
from polyrank import config
from polyrank.federation.population import load_data
from polyrank.runs.runner import run


def test_auc_is_that_of_mann_and_whitney():
    random = np.random.default_rng(0)
    members, others = random.standard_normal(50) + 0.5, random.standard_normal(70)
    expected = stats.mannwhitneyu(members, others).statistic / (50 * 70)
    assert privacy.auc(members, others) == pytest.approx(expected)
    low, high = privacy.interval(members, others)
    assert low < expected < high


def test_every_configuration_of_the_study_is_valid():
    for method in privacy.PLAN:
        for budget in privacy.BUDGETS:
            more = [f"aggregation.method={method}", *privacy.privately(budget, privacy.bound(method, budget))]
            assert privacy.config_of("stdlib-docs", None, more).privacy.budget == budget


def test_a_bound_is_that_of_its_budget(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(privacy, "PLAN", {"ffa": (0.1, (8.5, 3.5, 1.5))})
    assert [privacy.bound("ffa", budget) for budget in (8.0, 3.0, 1.0)] == [8.5, 3.5, 1.5]


def test_halves_are_disjoint_and_hold_every_text_as_it_was(tmp_path: Path):
    """Texts of several lines too."""
    more = ["data.limit_train=400"]
    lines = [path.read_text(encoding="utf-8").splitlines() for path in privacy.halves(tmp_path, more)]
    first, second, both = ([(row["text"], row["label"]) for row in map(json.loads, own)] for own in lines)
    whole = load_data(config.load(None, more)).train
    assert both == [(text, whole.label_names[label]) for text, label in zip(whole.texts, whole.labels, strict=True)]
    assert any("\n" in text for text, _ in both)
    assert (first, second) == (both[::2], both[1::2])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_losses_of_the_texts_are_those_of_the_runs_last_adapter(tmp_path: Path, precision: str):
    """Their mean is the run's test loss, up to the order of additions."""
    listener = privacy.Losses(tmp_path / "run")
    summary = run(tiny("federation.rounds=1", f"training.precision={precision}"), tmp_path / "run", listener=listener)
    assert len(listener.found) == 24
    assert np.mean(listener.found) == pytest.approx(summary["test/loss"], rel=1e-2 if precision == "bfloat16" else 1e-5)


def test_the_table_has_a_row_for_each_method_and_a_column_for_each_budget():
    runs = [
        {"data": "d", "method": "ffa", "budget": b, "seed": s, "accuracy": 0.5 + s / 10, "constant": 0.2}
        for b in (None, 1.0)
        for s in (0, 1)
    ]
    table = privacy.accuracy_table(runs)
    assert "| method | without privacy | epsilon 1 |" in table
    assert "| `ffa` | 55.0 ± 7.1 | 55.0 ± 7.1 |" in table
