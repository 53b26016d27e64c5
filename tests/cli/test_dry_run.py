"""``polyrank run --dry-run``: refused where a run is, and the folder stays as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyrank.core.text import size
from tests.cli.conftest import Polyrank


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_it_says_what_the_run_then_does(polyrank: Polyrank, own_things: Path, tmp_path: Path):
    call = ("run", own_things / "study.toml", "--out", "runs/own")
    shown = polyrank(*call, "--dry-run")
    assert (shown.code, shown.err) == (0, "")
    assert files(tmp_path) == {}
    assert "nothing was trained or written. The run would be written to runs/own" in shown.out
    assert "4 clients with 12 to 12 examples" in shown.out
    assert "time: about " in shown.out
    assert "(training " in shown.out
    assert polyrank(*call).code == 0
    summary = json.loads(Path("runs/own/summary.json").read_text())
    up, down = (summary[f"bytes/{way}"] for way in ("up", "down"))
    assert f"in all: {size(up)} up, {size(down)} down, {size(up + down)} together" in shown.out


def test_scoring_and_models_that_write(polyrank: Polyrank, writing: Path, tmp_path: Path):
    own = ("--set", "ranks.policy=validation", "--set", "ranks.validation_per_label=4", "--set", "ranks.counts=[2,1]")
    shown = polyrank("run", writing / "study.toml", "--dry-run", *own, "--set", "ranks.by_name={}")
    assert shown.code == 0, shown.err
    assert "; the scoring round's " in shown.out
    assert "scoring " in shown.out.partition("time: ")[2]
    assert files(tmp_path) == {}


def test_a_run_that_goes_on(polyrank: Polyrank, own_things: Path, tmp_path: Path):
    study = own_things / "study.toml"
    assert polyrank("run", study, "--out", "run").code == 0
    before = files(tmp_path)
    more = ("--set", "federation.rounds=5")
    shown = polyrank("run", study, "--out", "run", "--resume", "--dry-run", *more)
    assert shown.code == 0, shown.err
    assert "The run would go on after round 2 in run" in shown.out
    again = polyrank("run", "--out", "run", "--resume", "--dry-run")
    assert again.code == 0, again.err
    for wrong, said in (
        (("--set", "federation.rounds=1"), "holds 2 finished rounds and federation.rounds is 1"),
        (("--set", "training.lr=0.5"), "the run is of another configuration: training.lr"),
    ):
        refused = polyrank("run", study, "--out", "run", "--resume", "--dry-run", *wrong)
        assert (refused.code, refused.out) == (2, "")
        assert said in refused.err
    taken = polyrank("run", study, "--out", "run", "--dry-run")
    assert taken.code == 2
    assert "run holds another run" in taken.err
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("data.train=nowhere.csv",), "no such file: nowhere.csv"),
        (("data.label=mood",), "has no column 'mood'"),
        (("model.name=./nowhere",), "no such folder"),
        (("aggregation.method=fedavg",), "needs clients of equal ranks"),
        (("federation.clients=90", "ranks.counts=[89,1]"), "90 clients, but only"),
        (("data.max_tokens=2",), "2 tokens of each text are the tokenizer's own"),
        (("output.trackers=['trackio']",), "output.trackers names trackio, which is not installed"),
        (("model.targets=['nothing']",), "nothing"),
        (("privacy.model=central", "privacy.budget=3"), "privacy"),
    ],
)
def test_what_a_run_refuses_is_refused_in_the_same_words(
    polyrank: Polyrank, own_things: Path, tmp_path: Path, settings: tuple[str, ...], said: str
):
    call = ["run", own_things / "study.toml", "--out", "run"]
    call += [part for setting in settings for part in ("--set", setting)]
    dry, real = polyrank(*call, "--dry-run"), polyrank(*call)
    assert (dry.code, dry.out) == (2, "")
    assert said in dry.err
    assert dry.err == real.err
    assert files(tmp_path) == {}


def test_a_folder_that_cannot_be_made_is_refused(polyrank: Polyrank, own_things: Path):
    Path("taken").write_text("mine")
    refused = polyrank("run", own_things / "study.toml", "--out", "taken/run", "--dry-run")
    assert refused.code == 2
    assert "taken/run cannot be written: " in refused.err
