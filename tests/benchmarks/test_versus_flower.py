"""The table and the plan of the comparison with Flower; nothing is timed, and Flower need not be installed."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import versus_flower
from polyrank import config as configuration

MIB = 2**20
FLOWER, RESIDENT, PFL, POLYRANK = versus_flower.WAYS
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from Linux's /proc")


def measured(way: str, seconds: list[float], peak: int, seed: int = 0, **other: Any) -> dict[str, Any]:
    one = {"job": "J2", "dropout": "none", "way": way, "seed": seed, "seconds": seconds, "peak": peak * MIB}
    return {**one, "first_round": 9.0, "start_and_stop": 20.0, "accuracy": 0.5, **other}


def test_rows_are_compared_with_flower_of_the_same_job_and_dropout():
    """By hand: medians 4 and 1 are 4.00 times the speed; 300 of 1200 MiB is 25 %; 3600 / 1 = 3600 rounds per hour."""
    measurements = [
        measured(FLOWER, [3.0, 4.0, 5.0], 1200),
        measured(POLYRANK, [1.0, 1.0], 250, accuracy=0.4),
        measured(POLYRANK, [0.5, 2.0], 350, seed=1, accuracy=0.6),
        measured(FLOWER, [100.0], 5000, job="J1", dropout="zero"),
        measured(POLYRANK, [7.0], 100, job="J1", dropout="keep"),
    ]
    rows = versus_flower.summarise(measurements)
    found = {(row["job"], row["dropout"], row["way"]): row for row in rows}
    polyrank = found["J2", "none", POLYRANK]
    assert polyrank["runs"] == 2
    assert polyrank["seconds_per_round"] == 1.0
    assert polyrank["times_flower"] == 4.0
    assert polyrank["share_of_memory"] == 0.25
    assert polyrank["accuracy"] == {"0": 0.4, "1": 0.6}
    assert found["J2", "none", FLOWER]["times_flower"] == 1.0
    assert found["J1", "keep", POLYRANK]["times_flower"] is None  # no Flower with that dropout
    lines = versus_flower.table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1
    expected = "| J2 | none | polyrank | 1.00 | 3600 | 4.00 | 300 | 25% | 20 | 50.0 % (40.0 to 60.0) |"
    assert expected in lines
    assert "| J1 | keep | polyrank | 7.00 | 514 | - | 100 | - | 20 | 50.0 % (50.0 to 50.0) |" in lines


def test_polyrank_runs_after_each_of_the_others():
    chosen = argparse.Namespace(repeats=1, seeds=[0, 1], jobs=["J2", "J3"], dropout=["keep", "zero"], rounds=3)
    plans = list(versus_flower.plans(chosen, [FLOWER, RESIDENT, PFL, POLYRANK]))
    order = [plan.way for plan in plans if (plan.seed, plan.job) == (0, "J2")]
    assert order == [FLOWER, POLYRANK, RESIDENT, POLYRANK, PFL, POLYRANK]
    assert {(plan.job, plan.dropout) for plan in plans} == {("J2", "none"), ("J3", "keep"), ("J3", "zero")}
    assert all(plan.rounds == 5 for plan in plans)
    assert len({plan.name for plan in plans}) == len(plans) == 2 * 3 * 6
    assert [plan.way for plan in versus_flower.plans(chosen, [POLYRANK])] == [POLYRANK] * 6


def test_both_sides_read_the_same_job(tmp_path: Path):
    """The configuration survives the file through which Flower's side gets it, and is the job that is described."""
    folder = tmp_path / "minilm"
    places = versus_flower.Places(tmp_path, tmp_path, folder, None, 2, ("training.precision=float32",))
    config = versus_flower.config_of(versus_flower.Plan("J1", "zero", 3, 0, 0, FLOWER, 6), places)
    file = tmp_path / "job.toml"
    file.write_text(configuration.dump(config), encoding="utf-8")
    assert configuration.load(file) == config
    assert config.model.name == str(folder)
    assert config.model.config == {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    assert config.ranks.levels == [8]
    assert config.data.size == 200
    assert config.federation.seed == 3
    assert config.federation.rounds == 6
    assert config.training.precision == "float32"
    kept = versus_flower.config_of(versus_flower.Plan("J2", "none", 0, 0, 0, FLOWER, 6), places)
    assert kept.model.config == {"num_hidden_layers": 3}


@LINUX
def test_memory_counts_children_and_daemons_and_ends_them(tmp_path: Path):
    """A child fills 64 MiB and a detached daemon outlives its parent: both count, and neither is left over."""
    from benchmarks.flower_job import memory

    fill = "import time; x = b'1' * (64 << 20); time.sleep(3)"
    start = "import subprocess, sys; a = [sys.executable, '-c']; subprocess.Popen([*a, 'import time; time.sleep(99)'], "
    start += f"start_new_session=True); subprocess.run([*a, {fill!r}]); sys.exit(3)"
    memory_left, memory.LEFT = memory.LEFT, 0.5
    try:
        finished = memory.run([sys.executable, "-c", start], dict(os.environ), tmp_path / "log.txt", 0.1)
    finally:
        memory.LEFT = memory_left
    assert finished.code == 3
    assert finished.processes == 3
    assert finished.peak > 64 * MIB
    sleeping = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "time.sleep(99)" not in sleeping


def test_the_committed_result_names_machine_and_versions():
    report = json.loads(versus_flower.RESULT.read_text(encoding="utf-8"))
    assert report["machine"]["versions"]["torch"]
    assert report["versions"].keys() >= {"flwr", "ray"}
    assert report["results"]
    for row in report["results"]:
        assert {"job", "dropout", "way", "seconds_per_round", "peak", "times_flower", "accuracy"} <= row.keys()
        assert row["way"] in versus_flower.WAYS
    assert versus_flower.table(report["results"]).count("\n") == len(report["results"]) + 1
