"""The benchmark of the engines runs and writes what its tables need; nothing is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import engines


def test_arithmetic_and_width_on_the_quickstarts_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny = engines.Shape("tiny", ("data.limit_train=200", "data.limit_test=20", "model.config.num_hidden_layers=1"), 2)
    monkeypatch.setattr(engines, "shapes", lambda *_: [tiny])
    monkeypatch.setattr(engines, "REPEATS", 1)
    result = tmp_path / "engines.json"
    engines.main(["--parts", "arithmetic", "width", "--work", str(tmp_path), "--result", str(result)])
    report = json.loads(result.read_text(encoding="utf-8"))
    (row,) = report["arithmetic"]
    assert 0 < row["share"] < 2
    assert 0 <= row["beyond_arithmetic"] < 1
    (row,) = report["width"]
    assert set(row["seconds_per_client_step"]) == {"sequential", "batched 1", "batched 2"}
    assert report["machine"]["processor"]


def test_growth_on_a_small_point(tmp_path: Path):
    found = engines.point("clients", 10, tmp_path)
    assert found["rounds_per_hour"] == pytest.approx(3600 / found["seconds_per_round"])
    assert found["peak_mib"] > 100
    row = {"clients": 10, **found}
    assert "| clients | 10 |" in engines.tables({"growth": [row]})


def test_the_committed_result_names_machine_and_holds_all_parts():
    if not engines.RESULT.is_file():
        pytest.skip("not measured yet")
    report = json.loads(engines.RESULT.read_text(encoding="utf-8"))
    assert report["machine"]["versions"]["torch"]
    assert set(engines.PARTS) <= report.keys()
    assert engines.tables(report).count("\n|---") == len(engines.PARTS)
