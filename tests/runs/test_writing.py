"""Runs of a model that writes: resumed bit for bit, round 0 and samples included; what was changed by hand is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from polyrank.core.errors import RunFolderError
from polyrank.report.runs import find
from polyrank.runs import trackers
from polyrank.runs.folder import RunFolder
from polyrank.runs.runner import run
from tests.conftest import Configure
from tests.runs.runs import assert_same_run, interrupt
from tests.writers import Study

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def whole(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(study(), folder)
    return folder


def lines(folder: Path) -> Lines:
    found = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) | {"seconds": 0} for line in found]


def samples(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = RunFolder(folder).read_json("samples")
    return found


@pytest.mark.parametrize("when", [{"in_round": 1}, {"after_round": 0}, {"in_round": 2}, {"after_round": 1}])
def test_a_stopped_run_goes_on_to_the_same_end(study: Study, whole: Path, tmp_path: Path, when: dict[str, int]):
    interrupt(study(), tmp_path, **when)
    first = (tmp_path / "metrics.jsonl").read_bytes().splitlines()[0]
    assert [row.keys() for row in samples(tmp_path)["samples"]] == [{"prompt", "reference", "before"}] * 2
    run(study(), tmp_path, resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines()[0] == first
    assert_same_run(whole, tmp_path)
    assert lines(tmp_path) == lines(whole)
    assert samples(tmp_path) == samples(whole)
    assert [line["round"] for line in lines(whole)] == [0, 1, 2]


def test_a_run_that_is_made_longer_and_evaluated_otherwise(study: Study, whole: Path, tmp_path: Path):
    """With other samples of another length, as if it had been asked for from the start."""
    run(study("federation.rounds=1", "evaluation.samples=3", "evaluation.sample_tokens=4"), tmp_path)
    assert len(samples(tmp_path)["samples"]) == 3
    run(study(), tmp_path, resume=True)
    assert lines(tmp_path) == lines(whole)
    assert samples(tmp_path) == samples(whole)
    run(study("evaluation.samples=0"), tmp_path, resume=True)
    assert not (tmp_path / "samples.json").exists()


@pytest.mark.parametrize("damage", ["{", '{"samples": [1]}', '{"tokens": 8, "samples": [{"prompt": "x"}]}', None])
def test_samples_that_were_lost_are_made_anew(study: Study, whole: Path, tmp_path: Path, damage: str | None):
    interrupt(study(), tmp_path, after_round=1)
    (tmp_path / "samples.json").unlink()
    if damage is not None:
        (tmp_path / "samples.json").write_text(damage, encoding="utf-8")
    run(study(), tmp_path, resume=True)
    assert samples(tmp_path) == samples(whole)


def without(found: Lines) -> Lines:
    return found[1:]


def doubled(found: Lines) -> Lines:
    return [found[0], *found]


def moved(found: Lines) -> Lines:
    return [*found[1:], found[0]]


def at_the_end(found: Lines) -> Lines:
    return [*found, found[0]]


def nothing(_: Lines) -> Lines:
    return []


EDITS = {
    without: "line 1: expected what was measured in round 0",
    doubled: "line 2: expected what was measured in round 1",
    moved: "line 1: expected what was measured in round 0",
    at_the_end: r"line \d: expected what was measured in round \d",
    nothing: "has no line of round 0",
}


@pytest.mark.parametrize(("edit", "said"), EDITS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_line_of_round_0_that_was_changed_is_named(
    study: Study, tmp_path: Path, whole: Path, edit: Callable[[Lines], Lines], said: str
):
    """By resuming, by reports and before anything is computed."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    found = edit([json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found), encoding="utf-8")
    with pytest.raises(RunFolderError, match=said) as error:
        run(study("federation.rounds=3"), folder, resume=True)
    assert "\n" not in str(error.value)
    if edit is not nothing:
        with pytest.raises(RunFolderError, match=said):
            find([folder])


def test_a_line_of_round_0_is_none_of_a_classifier(configure: Configure, tmp_path: Path):
    """Whose lines begin with round 1, as they always did."""
    run(configure("federation.rounds=1"), tmp_path)
    (line,) = lines(tmp_path)
    assert line["round"] == 1
    assert not (tmp_path / "samples.json").exists()
    summary = RunFolder(tmp_path).read_json("summary")
    assert not [key for key in summary if key.startswith("untrained/") or key == "constant/of"]
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    (tmp_path / "metrics.jsonl").write_text(text.replace('"round": 1', '"round": 0') + text, encoding="utf-8")
    with pytest.raises(RunFolderError, match="line 1: expected what was measured in round 1"):
        run(configure("federation.rounds=2"), tmp_path, resume=True)


class Kept:
    """As accelerate's trackers; keeps what it is told."""

    requires_logging_directory = False
    told: list[tuple[int, Mapping[str, Any]]] = []  # noqa: RUF012  # of the class: accelerate makes the instance

    def __init__(self, project: str) -> None: ...

    def start(self) -> None: ...

    def store_init_configuration(self, values: Mapping[str, Any]) -> None: ...

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self.told.append((step, values))

    def finish(self) -> None: ...


def test_trackers_begin_with_round_0(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And take numbers alone: what stands by kind or by client is for the folder."""
    monkeypatch.setattr(trackers, "LOGGER_TYPE_TO_CLASS", {"wandb": Kept})
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["wandb"])
    monkeypatch.setattr(Kept, "told", [])
    run(study('output.trackers=["wandb"]', "federation.rounds=1"), tmp_path)
    untrained, first = RunFolder(tmp_path).read_lines()
    assert [step for step, _ in Kept.told] == [0, 1]
    assert Kept.told[0][1].keys() == {"test/loss", "test/perplexity", "test/token_accuracy", "seconds"}
    assert Kept.told[0][1]["test/loss"] == untrained["test/loss"]
    assert isinstance(untrained["test/loss_by_kind"], dict)
    assert Kept.told[1][1]["test/perplexity"] == first["test/perplexity"]
    assert all(isinstance(value, int | float) for _, values in Kept.told for value in values.values())
