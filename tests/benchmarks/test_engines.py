"""The benchmark of the engines runs and writes what its tables need; nothing is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks.engines import __main__ as engines
from benchmarks.engines import arithmetic, growth, width
from benchmarks.engines.work import Shape

TINY = Shape(
    "tiny",
    ("data.limit_train=200", "data.limit_test=20", "model.config.num_hidden_layers=1", "federation.participation=0.1"),
    2,
)
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from Linux's /proc")


@LINUX
def test_arithmetic_and_width_on_the_quickstarts_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "encoders", lambda *_: [TINY])
    monkeypatch.setattr(width, "shapes", lambda *_: [(TINY, 64)])
    monkeypatch.setattr(arithmetic, "REPEATS", 1)
    result = tmp_path / "engines.json"
    engines.main(["--parts", "arithmetic", "width", "--work", str(tmp_path), "--result", str(result)])
    report = json.loads(result.read_text(encoding="utf-8"))
    rows = report["arithmetic"]["rows"]
    assert [row["precision"] for row in rows] == ["float32", "bfloat16"]
    assert all(0 < row["share"] < 2 and 0 <= row["beyond_arithmetic"] < 1 for row in rows)
    rows = report["width"]["rows"]
    assert [row["engine"].split(":")[0] for row in rows] == ["sequential", "batched 2", "planner's choice"]
    assert all(row["peak_mib"] > 100 for row in rows)
    assert report["width"]["machine"]["processor"]


@LINUX
def test_growth_on_a_small_point(tmp_path: Path):
    found = growth.point("clients", 10, tmp_path)
    assert found["rounds_per_hour"] == pytest.approx(3600 / found["seconds_per_round"])
    assert found["peak_mib"] > 100
    assert "| clients | 10 |" in growth.table([{"clients": 10, **found}])


def test_the_committed_result_names_machines_and_holds_all_parts():
    report = json.loads(engines.RESULT.read_text(encoding="utf-8"))
    assert set(engines.PARTS) == report.keys()
    assert all(part["machine"]["versions"]["torch"] for part in report.values())
    assert engines.tables(report).count("\n|---") == len(engines.PARTS)
