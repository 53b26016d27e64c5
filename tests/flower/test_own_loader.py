"""Sites whose texts are in databases of their own: examples/own_parts/from_sqlite.py."""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polyrank.flower.server import serve
from tests import models
from tests.conftest import Configure
from tests.flower.conftest import QUICK, InProcess, anyhow, state

FOLDER = Path(__file__).parents[2] / "examples" / "own_parts"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import from_sqlite

    yield from_sqlite.app
    sys.modules.pop("from_sqlite", None)


def database(path: Path, rows: int) -> Path:
    """Texts of the toy task; one without a label is no example."""
    toy = models.toy(rows)
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE notes (text TEXT, label TEXT)")
        texts = zip(toy.texts, (toy.label_names[label] for label in toy.labels), strict=True)
        made.executemany("INSERT INTO notes VALUES (?, ?)", [*texts, ("nobody said of what kind", None)])
    return path


def test_each_site_trains_on_its_database(configure: Configure, tmp_path: Path, app: Any):
    config = anyhow(configure("federation.participation=1.0", "federation.rounds=1", "data.limit_train=100"))
    files = {1: database(tmp_path / "one.db", 60), 2: database(tmp_path / "two.db", 40)}
    sites = {n: {"client": f"site-{n}", "lora-rank": 2 * n, "sqlite": str(file)} for n, file in files.items()}
    serve(InProcess(app, sites), config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=2))
    assert state(tmp_path / "run").ranks == {"site-1": 2, "site-2": 4}
    clients = json.loads((tmp_path / "run" / "clients.json").read_text(encoding="utf-8"))["clients"]
    held = {name: client["examples"] for name, client in clients.items()}
    assert held == {"site-1": 48, "site-2": 32}  # a fifth is each site's own test set


def test_a_database_that_is_not_there_leaves_its_site_out(
    configure: Configure, tmp_path: Path, app: Any, caplog: pytest.LogCaptureFixture
):
    config = anyhow(configure("federation.participation=1.0", "federation.rounds=1", "data.limit_train=100"))
    there = database(tmp_path / "one.db", 60)
    sites = {
        n: {"client": f"site-{n}", "lora-rank": 2, "sqlite": str(file)}
        for n, file in ((1, there), (2, tmp_path / "none.db"))
    }
    with caplog.at_level(logging.WARNING):
        serve(InProcess(app, sites), config, replace(QUICK, out=str(tmp_path / "run"), min_nodes=1))
    assert set(state(tmp_path / "run").ranks) == {"site-1"}
    assert "site-2" in caplog.text or "node 2" in caplog.text or "DataError" in caplog.text
    assert "none.db" not in caplog.text
