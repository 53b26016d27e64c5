from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from polyrank.runs import checkpoint, trackers
from polyrank.training.profile import PHASES
from polyrank.training.sequential import Sequential
from tests.cli.conftest import Polyrank


def test_a_run_shows_its_rounds_and_leaves_the_run_folder(polyrank: Polyrank, own_things: Path):
    result = polyrank("run", own_things / "study.toml", "--out", "study")
    assert result.code == 0
    assert result.out.startswith("read 60 rows of ")
    assert "4 clients with 12 to 12 examples" in result.out
    for word in ("1/2", "2/2", "accuracy", "time left", "best constant answer", "rank group", "run folder: study"):
        assert word in result.out
    assert {path.name for path in Path("study").iterdir()} == {
        *("config.toml", "requested.toml", "metrics.jsonl", "checkpoint"),
        *("adapter", "clients.json", "run.json", "summary.json", ".lock"),
    }
    assert result.err == ""


def test_without_out_every_run_gets_a_folder_of_its_own(polyrank: Polyrank, own_things: Path):
    for number in (1, 2):
        assert polyrank("run", own_things / "study.toml", "--set", "federation.rounds=1").code == 0
        assert Path(f"runs/study-{number:03d}/summary.json").is_file()


def test_a_run_is_kept_resumed_and_replaced(polyrank: Polyrank, own_things: Path):
    study = own_things / "study.toml"
    assert polyrank("run", study, "--out", "study").code == 0
    before = Path("study/metrics.jsonl").read_text()
    refused = polyrank("run", study, "--out", "study")
    assert refused.code == 2
    assert "--resume" in refused.err
    assert "--overwrite" in refused.err
    assert Path("study/metrics.jsonl").read_text() == before
    assert polyrank("run", "--resume", "--out", "study", "--set", "federation.rounds=3").code == 0
    assert len(Path("study/metrics.jsonl").read_text().splitlines()) == 3
    assert polyrank("run", study, "--out", "study", "--overwrite").code == 0
    assert len(Path("study/metrics.jsonl").read_text().splitlines()) == 2


def test_ctrl_c_keeps_the_rounds_and_says_how_to_go_on(
    polyrank: Polyrank, own_things: Path, monkeypatch: pytest.MonkeyPatch
):
    """Interrupted in the third round: two are saved, and the command that is printed continues them."""
    real, calls = Sequential.run, 0

    def run(self: Sequential, works: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(self, works)

    with monkeypatch.context() as patched:
        patched.setattr(Sequential, "run", run)
        settings = (
            "--set",
            "federation.rounds=4",
            "--set",
            "training.engine=sequential",
            "--set",
            "training.workers=1",
        )
        stopped = polyrank("run", own_things / "study.toml", *settings, "--out", "study")
    assert stopped.code == 130
    assert "2 rounds are saved" in stopped.err
    command = stopped.err.strip().rpartition("polyrank ")[2].split()
    assert checkpoint.load(Path("study/checkpoint")).round == 2
    assert polyrank(*command).code == 0
    assert [json.loads(line)["round"] for line in Path("study/metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "training.lrr=1"], ["lrr", "did you mean 'lr'"]),
        (["--set", "trainig.lr=1"], ["trainig", "did you mean 'training'"]),
        (["--set", "training.lr=fast"], ["training.lr", "'fast'"]),
        (["--set", "lr"], ["section.key=value"]),
        (["--set", "aggregation.method=replicaton"], ["replicaton", "did you mean 'replication'"]),
        (["--set", "aggregation.options={donnor='owners'}"], ["donnor", "did you mean 'donor'"]),
        (["--set", "aggregation.method=fedavg"], ["fedavg", "equal ranks", "rank 2", "rank 4"]),
        (["--set", "ranks.levels=[0, 4]"], ["ranks.levels", "[0, 4]"]),
        (["--set", "ranks.levels=[-1, 4]"], ["ranks.levels"]),
        (["--set", "ranks.levels=[2, 400]"], ["400", "16 x 16", "at most 16"]),
        (["--set", "ranks.counts=[3, 9]"], ["9 at rank 4", "4 clients"]),
        (["--set", "federation.clients=1000", "--set", "ranks.counts=[999, 1]"], ["1000 clients", "48"]),
        (["--set", "data.text=reviews"], ["reviews", "did you mean 'review'"]),
        (["--set", "data.train=missing.csv"], ["missing.csv", "no such file"]),
        (["--set", "data.partition=dirichlett"], ["did you mean 'dirichlet'"]),
        (["--set", "model.name=."], ["no model", "config.json"]),
        (["--set", "model.name=./missing"], ["./missing", "no such folder"]),
        (["--set", "model.targets=['qery']"], ["qery"]),
        (["--resume", "--out", "nowhere"], ["nowhere", "no run folder"]),
        (["--resume"], ["--out"]),
        (["--resume", "--overwrite", "--out", "x"], ["one of them"]),
    ],
)
def test_bad_input_is_one_clear_line(polyrank: Polyrank, own_things: Path, arguments: list[str], words: list[str]):
    config = [] if "--resume" in arguments else [own_things / "study.toml"]
    result = polyrank("run", *config, *arguments)
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1, result.err
    for word in words:
        assert word in result.err
    assert result.out == ""
    assert not Path("runs").exists()


def lines(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def test_profile_shows_where_the_time_went(polyrank: Polyrank, own_things: Path):
    """The six phases of each round are its seconds, but for the rounding to 0.1 ms; before and after are others."""
    result = polyrank("run", own_things / "study.toml", "--out", "study", "--profile", "--set", "training.epochs=5")
    assert result.code == 0
    shown = " ".join(result.out.split()).partition("where the time went")[2]
    for phase in PHASES:
        assert phase in shown
    for line in lines("study"):
        booked = {phase: line[f"time/{phase}"] for phase in PHASES}
        assert sum(booked.values()) == pytest.approx(line["seconds"], rel=0.01)
        assert all(booked[phase] > 0 for phase in ("arithmetic", "optimiser", "aggregation", "evaluation"))
        assert min(booked.values()) >= 0
    summary = json.loads(Path("study/summary.json").read_text())
    assert list(summary["time"]) == ["loading", "scoring", *PHASES, "saving", "closing"]
    assert sum(summary["time"][phase] for phase in PHASES) == pytest.approx(summary["seconds"], abs=0.05)
    assert min(summary["time"][name] for name in ("loading", "saving", "closing")) > 0


def test_without_profile_nothing_is_booked(polyrank: Polyrank, own_things: Path):
    result = polyrank("run", own_things / "study.toml", "--out", "study")
    assert "where the time" not in result.out
    assert not any(key.startswith("time") for line in lines("study") for key in line)
    assert "time" not in json.loads(Path("study/summary.json").read_text())


def test_how_clients_are_trained_is_shown_and_written_down(polyrank: Polyrank, own_things: Path):
    """Two clients in a round, in one pass as asked; or as was measured, which is written down resolved."""
    chosen = ("--set", "training.engine=batched", "--set", "training.clients_per_pass=2", "--set", "training.workers=1")
    result = polyrank("run", own_things / "study.toml", "--out", "fixed", *chosen)
    assert "2 clients in one pass; aggregation" in " ".join(result.out.split())
    assert polyrank("run", own_things / "study.toml", "--out", "measured").code == 0
    training = tomllib.loads(Path("measured/config.toml").read_text())["training"]
    assert training["engine"] == "batched"
    assert training["clients_per_pass"] in (1, 2)
    assert training["workers"] == 1


def test_a_label_seen_in_test_only_is_named(polyrank: Polyrank, own_things: Path):
    Path("test.csv").write_text("review,stars\nthe cat sees,sheep\n", encoding="utf-8")
    result = polyrank("run", own_things / "study.toml", "--set", "data.test=test.csv")
    assert result.code == 2
    assert "'sheep'" in result.err


def test_a_folder_of_something_else_is_left_alone(polyrank: Polyrank, own_things: Path):
    Path("photos").mkdir()
    Path("photos/cat.jpg").write_bytes(b"meow")
    for option in ([], ["--overwrite"]):
        result = polyrank("run", own_things / "study.toml", "--out", "photos", *option)
        assert result.code == 2
        assert "no run folder" in result.err
    assert [path.name for path in Path("photos").iterdir()] == ["cat.jpg"]


def test_a_fault_of_ours_is_one_line_and_exit_code_1(polyrank: Polyrank, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("the moon is in the wrong phase")

    monkeypatch.setattr("polyrank.config.load", broken)
    result = polyrank("run")
    assert result.code == 1
    assert len(result.err.strip().splitlines()) == 1
    assert "internal error: RuntimeError: the moon" in result.err


def test_the_end_says_what_was_not_tracked(
    polyrank: Polyrank, own_things: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A tracker without a network: named once, and the run is done."""

    class Unreachable:
        requires_logging_directory = False

        def __init__(self, project: str) -> None:
            raise ConnectionError(f"no network for {project}")

    monkeypatch.setattr(trackers, "LOGGER_TYPE_TO_CLASS", {"wandb": Unreachable})
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["wandb"])
    done = polyrank("run", own_things / "study.toml", "--set", 'output.trackers=["wandb"]', "--out", "tracked")
    assert done.code == 0
    assert "not tracked: wandb: everything (ConnectionError: no network for polyrank)" in done.out
    assert [record.getMessage() for record in caplog.records if "goes on" in record.getMessage()] == [
        "wandb failed, and the run goes on: ConnectionError: no network for polyrank"
    ]


def test_a_trial_is_not_resumed_as_the_run(polyrank: Polyrank, own_things: Path):
    study = own_things / "study.toml"
    assert polyrank("run", study, "--set", "data.size=4", "--out", "trial").code == 0
    refused = polyrank("run", study, "--resume", "--out", "trial")
    assert refused.code == 2
    assert "data.size is 4 there and not set here" in refused.err
    assert polyrank("run", "--resume", "--out", "trial").code == 0
