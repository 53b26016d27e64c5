"""Every file of a run folder and every key in it is in docs/run-folder.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from polyrank import config as configuration
from polyrank.runs.runner import run
from tests import writers
from tests.conftest import Configure

PAGE = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([^`]+)`", PAGE))
PREFIXES = ("test/", "best/", "constant/", "untrained/", "own/")
RUNS: Mapping[str, tuple[str, ...]] = {
    "scored": ("aggregation.method=flora", "ranks.policy=validation", "ranks.validation_per_label=4"),
    "cut": ("aggregation.method=florist",),
    "pruned": ("ranks.policy=self_pruning",),
    "robust": ("aggregation.robust=norm",),
    "left out": ("aggregation.robust=krum",),
    "private": ("privacy.model=central", "privacy.noise=1.0", "privacy.quantile=0.5", "aggregation.weights=uniform"),
}


@pytest.fixture(scope="module", params=[*RUNS, "writes"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, configure: Configure) -> Path:
    """A finished run of each kind that leaves keys of its own."""
    made = tmp_path_factory.mktemp("run") / "run"
    if request.param == "writes":
        config = configuration.load(writers.study(made.parent) / "study.toml")
    else:
        config = configure("federation.participation=1.0", "evaluation.rank_groups=true", *RUNS[request.param])
    run(config, made, profile=True)
    return made


def unknown(keys: Iterable[str]) -> list[str]:
    """Keys that the page does not name, by themselves or by the prefix under which metrics of the task stand."""
    prefixed = tuple(prefix for prefix in PREFIXES if f"{prefix}..." in NAMED)
    return [key for key in keys if key not in NAMED and not key.startswith(prefixed)]


def read(path: Path) -> dict[str, Any]:  # Any: JSON values
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_every_file_is_named(folder: Path):
    names = [path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name != "report.html"]
    assert unknown(names) == []
    assert {"metrics.jsonl", "summary.json", "checkpoint/", "adapter/"} <= set(names)


def test_every_key_is_named(folder: Path):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert unknown({key for line in lines for key in line}) == []
    for name in ("summary.json", "run.json", "clients.json"):
        assert unknown(read(folder / name)) == []
    clients = read(folder / "clients.json")["clients"].values()
    assert unknown({key for client in clients for key in client}) == []


def test_a_key_that_is_not_there_is_noticed():
    assert unknown(["test/accuracy", "aggregation/error", "no/such_key"]) == ["no/such_key"]
