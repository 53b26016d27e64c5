"""Advice against what was measured: made-up runs of which the best is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from paper.studies import TABLES
from paper.tables import RESULTS

from paper import advice


def _lines(study: str, template: dict, curves: dict[str, list[list[float]]]) -> list[str]:
    lines = []
    for name, seeds in curves.items():
        for seed, values in enumerate(seeds):
            config = json.loads(json.dumps(template["config"]))
            config["aggregation"] |= {"method": name, "options": {}}
            config["federation"]["seed"] = seed
            rounds = [
                {**template["lines"][0], "round": number, "test/accuracy": value}
                for number, value in enumerate(values, 1)
            ]
            line = {**template, "key": f"{study}/{name}/seed-{seed}/{name}{seed}", "config": config, "lines": rounds}
            lines.append(json.dumps(line))
    return lines


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Seed by seed: `validated` best in `base`, early ahead but 10 points behind in `lr-1e-2`."""
    real = (RESULTS / "when_ag_news.jsonl").read_text(encoding="utf-8").splitlines()
    template = json.loads(next(line for line in real if json.loads(line)["key"].startswith("base/replication")))
    flat, early = [0.8] * 6, [0.9] * 4 + [0.0] * 4
    lines = _lines("base", template, {"validated": [flat, flat], "replication": [[0.7] * 6, [0.6] * 6]})
    lines += _lines("lr-1e-2", template, {"validated": [early], "replication": [[0.7] * 8]})
    lines += _lines("owners-5", template, {"replication": [flat], "tempered": [flat]})
    (tmp_path / "when_ag_news.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_regret_is_what_the_best_had_more(results: Path):
    found = advice.score(results)
    for kind in ("rules", "pilot"):
        base, large = found[kind]
        assert (base.setting, base.advised, base.regret, base.right) == ("ag_news base", "validated", 0.0, True)
        assert (large.best, large.advised, large.right) == ("replication", "validated", False)
        assert large.regret == pytest.approx(0.7 - (3.5 * 0.9) / 7)


def test_settings_without_our_method_are_left_out(results: Path):
    assert len(advice.score(results)["rules"]) == 2


def test_the_table_counts_what_was_right(results: Path):
    shown = advice.table(advice.score(results))
    assert "within the spread of the best in 1 of 2 settings; at worst 25.0 points behind (ag_news lr-1e-2)" in shown


def test_the_real_results_can_be_scored():
    assert set(advice.score()) == {"rules", "pilot"}
    assert TABLES
