from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polyrank import config
from polyrank.core.errors import RunFolderError
from polyrank.report.runs import find, grouped
from tests.report.records import made


def folder(path: Path, accuracies: list[float | None], *overrides: str) -> Path:
    """A run folder as a run writes it while it is not finished."""
    path.mkdir(parents=True)
    (path / "config.toml").write_text(config.dump(config.load(None, overrides)), encoding="utf-8")
    (path / "run.json").write_text(json.dumps({"labels": ["a", "b"], "head_modules": []}), encoding="utf-8")
    run = made(accuracies)
    rest: dict[str, Any] = {"clients": [], "dropped": {}, "seconds": 1.0}
    lines = [json.dumps({**rest, **line}) for line in run.lines]
    (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_runs_are_found_in_and_below_folders_once_each(tmp_path: Path):
    one, other = folder(tmp_path / "x" / "one", [0.5]), folder(tmp_path / "x" / "y" / "other", [0.5, 0.6])
    found = find([tmp_path / "x", other])
    assert [run.path for run in found] == [one.resolve(), other.resolve()]
    assert found[1].values == [0.5, 0.6]
    assert found[0].summary is None


def test_a_run_without_an_evaluated_round_is_passed_over_but_not_alone(tmp_path: Path):
    folder(tmp_path / "new", [None])
    with pytest.raises(RunFolderError, match="has an evaluated round yet"):
        find([tmp_path])
    folder(tmp_path / "old", [0.5])
    assert [run.path.name for run in find([tmp_path])] == ["old"]


def test_a_folder_without_runs_is_refused(tmp_path: Path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunFolderError, match="is no run folder and holds none"):
            find([path])


def test_seeds_of_one_method_are_one_group_in_ascending_order():
    groups = grouped([made([0.5], seed=2), made([0.5], "aggregation.method=flexlora"), made([0.5], seed=1)])
    assert {name: [run.seed for run in runs] for name, runs in groups.items()} == {
        "replication": [1, 2],
        "flexlora": [0],
    }


def test_names_hold_what_tells_runs_apart():
    """Options always; ranks and other settings only where they differ; engine, length and evaluation never."""
    baseline = ("aggregation.method=fedavg", "ranks.levels=[7]")
    tempered = ("aggregation.method=tempered", "aggregation.options.gamma=0.25")
    groups = grouped(
        [
            made([0.5], "training.engine=sequential", "training.attention=eager"),
            made([0.5], *baseline, "federation.rounds=9"),
            made([0.5], *tempered, "evaluation.every=5"),
        ]
    )
    assert list(groups) == ["replication", "fedavg, rank 7", "tempered gamma=0.25"]
    plans = grouped([made([0.5]), made([0.5], "ranks.levels=[4, 8]"), made([0.5], *baseline)])
    assert list(plans) == ["replication, ranks 5/20", "replication, ranks 4/8", "fedavg, rank 7"]
    rates = grouped([made([0.5]), made([0.5], "training.lr=1e-4")])
    assert list(rates) == ["replication, lr=0.005", "replication, lr=0.0001"]


def test_who_has_which_rank_tells_runs_apart_unless_all_have_the_same():
    """Levels [4] and half of the clients at 32 are no run of rank 4, and its baseline needs no more of a name."""
    fixed = ("ranks.policy=fixed", "ranks.levels=[4]")
    mixed = made([0.5], *fixed, "ranks.by_name={balanced = 32}")
    baseline = made([0.5], *fixed, "aggregation.method=fedavg")
    assert list(grouped([mixed, baseline])) == ["replication", "fedavg, rank 4"]
    counts = grouped([made([0.5], f"ranks.counts={counts}") for counts in ([90, 10], [50, 50])])
    assert list(counts) == ["replication, counts=[90, 10]", "replication, counts=[50, 50]"]


def test_the_same_run_twice_is_refused():
    with pytest.raises(RunFolderError, match="first and second are the same run"):
        grouped([made([0.5], path="first"), made([0.5], path="second")])
