"""A few runs in trouble of each kind; `benchmarks.faults` has hundreds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from benchmarks.faults import RESULT, ROOT
from benchmarks.trouble import coming
from benchmarks.trouble.kills import WAYS
from benchmarks.trouble.same import brought_to_its_end, differences

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, groups of processes and /proc of Linux")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What the command records, in a process of its own: it forks."""
    result = tmp_path_factory.mktemp("faults") / "faults.json"
    command = [sys.executable, "-m", "benchmarks.faults", "kills", "disk", "soak", "--share", "0.015"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--result", str(result)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    recorded: dict[str, dict[str, object]] = json.loads(result.read_text(encoding="utf-8"))
    return recorded


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_bits(short: dict[str, dict[str, object]]):
    assert short["kills"]["wrong"] == []
    assert short["kills"]["trials"] == sum(round(0.015 * count) for count in WAYS.values())


@pytest.mark.slow
@pytest.mark.long
def test_a_disk_that_fails_is_one_clear_line_and_the_run_goes_on_to_the_same_bits(short: dict[str, dict[str, object]]):
    found = short["disk"]
    assert found["wrong"] == []
    assert found["trials"] == found["same"]
    assert any(one["refused"] for one in found["by_kind"].values())  # type: ignore[attr-defined]  # JSON


@pytest.mark.slow
@pytest.mark.long
def test_clients_that_fail_leave_no_files_open_and_every_round_in_the_metrics(short: dict[str, dict[str, object]]):
    found = short["soak"]
    assert found["rounds"] == 30
    assert found["metrics_complete"]
    assert found["all_failures_named"]
    assert len(found["open_files"]) == 1  # type: ignore[arg-type]  # JSON
    assert found["dropped"]


@pytest.mark.slow
@pytest.mark.long
def test_a_deployment_outlives_that_its_nodes_come_and_go(tmp_path: Path):
    """Minutes of it, in which each kind of process dies; ``benchmarks.faults deployment`` is the hour."""
    found = coming.coming(240, tmp_path / "deployment")
    assert found["wrong"] == []
    assert found["rounds"] >= 3
    assert found["runs_begun"] == 3


class NoDeployment:
    """In whose place nothing is started: a node that is never looked at."""


def test_a_node_was_there_or_away_throughout_a_round_or_neither():
    """There from 100 to 200 and since 300; it counts as there 30 seconds after it was started."""
    node = coming.Node(NoDeployment(), 0, Random(0), 0.0, there=[(100.0, 200.0)], since=300.0)  # type: ignore[arg-type]
    assert node.was_there(131, 199)
    assert not node.was_there(129, 199)
    assert not node.was_there(131, 201)
    assert node.was_there(331, 1000)
    assert not node.was_there(150, 350)
    assert node.was_away(201, 299)
    assert not node.was_away(150, 250)
    assert not node.was_away(250, 301)
    assert node.was_away(0, 99)


def test_reasons_are_of_one_kind_whatever_their_numbers():
    one, other = (f"/tmp/a{i}/site.sock did not answer within {i}.5 s" for i in (1, 20))
    assert coming.kind_of(one) == coming.kind_of(other) == "PATH did not answer within N s"


def test_the_record_is_of_runs_that_all_went_on():
    recorded = json.loads(RESULT.read_text(encoding="utf-8"))
    assert recorded["kills"]["trials"] >= 200
    assert recorded["kills"]["wrong"] == recorded["disk"]["wrong"] == []
    assert {"loading", "training", "aggregation", "checkpoint", "report"} <= recorded["kills"]["by_stage"].keys()
    assert recorded["kills"]["by_way"]["workers"] >= 5
    assert recorded["disk"]["trials"] == recorded["disk"]["same"]
    assert recorded["soak"]["rounds"] >= 2000
    assert recorded["soak"]["metrics_complete"]
    assert recorded["deployment"]["seconds"] >= 3600
    assert recorded["deployment"]["wrong"] == []


def test_a_run_that_cannot_go_on_is_wrong():
    assert brought_to_its_end(lambda _: (1, "Traceback: internal error"))[1].startswith("exit code 1")
    assert brought_to_its_end(lambda _: (2, "error: choose another folder"))[1].startswith("no way on")
    said = iter([(2, "error: start anew with --overwrite"), (0, "")])
    assert brought_to_its_end(lambda _: next(said)) == (["--resume", "--overwrite"], "")
    said = iter([(2, "error: x is no run folder: it has no config.toml"), (0, "")])
    assert brought_to_its_end(lambda _: next(said)) == (["--resume", "anew"], "")


def test_a_difference_of_one_bit_is_seen(tmp_path: Path):
    from benchmarks.tiny import tiny

    from polyrank.runs.runner import run

    for name in ("one", "other"):
        run(tiny("federation.rounds=1"), tmp_path / name)
    assert differences(tmp_path / "one", tmp_path / "other") == []
    path = tmp_path / "other" / "adapter" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    lines = (tmp_path / "other" / "metrics.jsonl").read_text()
    (tmp_path / "other" / "metrics.jsonl").write_text(lines.replace('"train/loss": ', '"train/loss": 1'))
    assert differences(tmp_path / "one", tmp_path / "other") == ["adapter/adapter_model.safetensors", "metrics.jsonl"]
