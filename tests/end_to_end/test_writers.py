"""Every method on models that write: a round of each on three architectures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from polyrank import config as configuration
from polyrank.aggregation import METHODS
from polyrank.runs.folder import RunFolder
from polyrank.runs.runner import run
from tests import writers


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen3"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    writers.study(folder)
    writers.save(folder / "other", request.param)
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_a_round(study: Path, tmp_path: Path, name: str):
    """Nobody is left out, and what comes out is another model than the base, with a loss that is a number."""
    ranks = ["ranks.levels=[3]", "ranks.counts=[3]"] if METHODS[name].info.equal_ranks else []
    quick = [
        "federation.rounds=1",
        "ranks.validation_per_label=5",
        "evaluation.samples=0",
        "training.engine=batched",
        "training.clients_per_pass=3",
    ]
    config = configuration.load(
        study / "study.toml", [f"model.name={study / 'other'}", f"aggregation.method={name}", *ranks, *quick]
    )
    summary = run(config, tmp_path / "run")
    (line,) = RunFolder(tmp_path / "run").read_metrics()
    assert not line["dropped"]
    assert math.isfinite(summary["test/loss"])
    assert summary["test/loss"] < summary["untrained/loss"]
