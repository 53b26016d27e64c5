"""Runs that end when they get no better: where, what is said of it, and how they go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from polyrank import config as configuration
from polyrank.cli.run import Screen
from polyrank.comparison.compare import Planned, finished
from polyrank.comparison.entries import Entry
from polyrank.config import Config
from polyrank.core.errors import ConfigError
from polyrank.core.state import ServerState
from polyrank.federation.planning.outlook import outlook
from polyrank.federation.server import Server
from polyrank.report import answer
from polyrank.report.runs import find, grouped
from polyrank.runs import resume, runner
from polyrank.runs.folder import RunFolder
from polyrank.runs.patience import is_spent
from polyrank.runs.runner import run, saved_config
from polyrank.tasks import settled
from polyrank.tasks.metric import Metric
from tests.conftest import Configure
from tests.runs.runs import assert_same_run, final, interrupt, metrics

WON, LOST = Metric("won", "wins", "higher"), Metric("lost", "losses", "lower")


@pytest.mark.parametrize(
    ("values", "spent"),
    [
        ([], None),
        ([0.5], None),
        ([0.5, 0.4], 1),
        ([0.5, 0.5], 1),
        ([0.5, 0.4, 0.6], None),
        ([0.5, 0.6, 0.4, 0.55], 2),
        ([0.5, 0.6, 0.6, 0.6], 2),
        ([0.9, 0.1, 0.2, 0.3, 0.4], 4),
        ([None, None, None], 2),
        ([None, 0.1, None], 1),
    ],
)
def test_so_many_evaluations_came_after_the_best_one(values: Sequence[float | None], spent: int | None):
    """``spent``: the greatest patience that is over. Null is infinitely bad; a line without a test is no evaluation."""
    for metric, sign in ((WON, 1), (LOST, -1)):
        lines: list[dict[str, Any]] = [{"round": 1}]
        for value in values:
            lines += [{f"test/{metric.name}": None if value is None else sign * value}, {"round": 2}]
        for patience in (1, 2, 3, 4, 5):
            assert is_spent(lines, metric, patience) == (spent is not None and patience <= spent)
        assert not is_spent(lines, metric, None)


ACCURACIES = (0.5, 0.6, 0.55, 0.6, 0.5, 0.7, 0.3, 0.4, 0.2, 0.1)
"""By round: the second one is the best until the sixth."""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every round has a known accuracy, whatever it learned."""
    real = runner.score_global

    def score(server: Server, state: ServerState, clients: Sequence[str]) -> dict[str, Any]:
        return {**real(server, state, clients), "accuracy": ACCURACIES[state.round - 1]}

    monkeypatch.setattr(runner, "score_global", score)
    monkeypatch.setattr(resume, "score_global", score)


def impatient(configure: Configure, *more: str) -> Config:
    return configure("federation.rounds=10", "evaluation.patience=2", *more)


@pytest.mark.usefixtures("scripted")
def test_a_run_ends_after_its_patience_as_after_its_last_round(configure: Configure, tmp_path: Path):
    """Rounds 3 and 4 are not better than round 2, of which 4 is as good. All there is at an end is there."""
    summary = run(impatient(configure), tmp_path)
    assert (summary["rounds"], summary["stopped_early"]) == (4, 4)
    assert (summary["best/accuracy"], summary["best/round"], summary["test/accuracy"]) == (0.6, 2, 0.6)
    assert [line["round"] for line in metrics(tmp_path)] == [1, 2, 3, 4]
    assert final(tmp_path).round == 4
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert saved_config(tmp_path).federation.rounds == 10


@pytest.mark.usefixtures("scripted")
def test_only_evaluated_rounds_count(configure: Configure, tmp_path: Path):
    """Rounds 2, 4 and 6 have 0.6, 0.6 and 0.7, rounds 8 and 10 less: with a patience of 1 it ends after round 4."""
    assert run(impatient(configure, "evaluation.every=2", "evaluation.patience=1"), tmp_path)["stopped_early"] == 4
    summary = run(impatient(configure, "evaluation.every=2", "evaluation.patience=2"), tmp_path, overwrite=True)
    assert summary["rounds"] == 10
    assert "stopped_early" not in summary


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("when", [{"in_round": 3}, {"after_round": 3}, {"after_round": 4}])
def test_a_run_that_was_stopped_ends_where_the_other_one_did(
    configure: Configure, tmp_path: Path, when: Mapping[str, int]
):
    """Stopped by hand after its last round, too, before it was closed."""
    run(impatient(configure), tmp_path / "whole")
    interrupt(impatient(configure), tmp_path / "stopped", **when)
    run(impatient(configure), tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.usefixtures("scripted")
def test_it_stays_ended_with_the_same_patience_and_goes_on_with_more(configure: Configure, tmp_path: Path):
    """With a patience of 3 it ends after round 5, and without one after round 10: as if that had been asked first."""
    first, longer, none = (impatient(configure, *more) for more in ((), ("evaluation.patience=3",), ()))
    none = none.model_copy(update={"evaluation": none.evaluation.model_copy(update={"patience": None})})
    run(first, tmp_path / "run")
    before = final(tmp_path / "run")
    assert run(first, tmp_path / "run", resume=True)["stopped_early"] == 4
    assert final(tmp_path / "run").adapter.identical(before.adapter)
    assert len(metrics(tmp_path / "run")) == 4
    assert run(longer, tmp_path / "run", resume=True)["stopped_early"] == 5
    run(none, tmp_path / "run", resume=True)
    run(none, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert "stopped_early" not in RunFolder(tmp_path / "run").read_json("summary")


@pytest.mark.usefixtures("scripted")
def test_a_comparison_takes_it_as_done_until_more_is_asked_for(configure: Configure, tmp_path: Path):
    def done(config: Config) -> bool:
        return finished(Planned(Entry("replication", settled(config)), 0, tmp_path))

    run(impatient(configure), tmp_path)
    assert done(impatient(configure))
    assert done(impatient(configure, "evaluation.patience=1"))
    assert done(configure("federation.rounds=4"))
    assert not done(impatient(configure, "evaluation.patience=3"))
    assert not done(configure("federation.rounds=10"))


@pytest.mark.usefixtures("scripted")
def test_the_screen_and_the_report_say_so(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    run(impatient(configure), tmp_path, listener=Screen())
    assert "ended early" in (shown := capsys.readouterr().out)
    assert "after round 4 of 10: no better test accuracy in 2 evaluations" in shown
    (notice, *_) = answer.notices(grouped(find([tmp_path])))
    assert notice == (
        "replication, seed 0, ended after round 4 of 10: 2 evaluations without a better test accuracy "
        "(evaluation.patience)."
    )
    interrupt(configure("federation.rounds=10"), tmp_path, resume=True, after_round=5)
    (notice, *_) = answer.notices(grouped(find([tmp_path])))
    assert notice == "replication, seed 0, is not finished: 5 of 10 rounds."


@pytest.mark.parametrize(
    ("more", "soonest"),
    [
        (("evaluation.patience=9",), 10),
        (("evaluation.patience=30",), 31),
        (("evaluation.every=5", "evaluation.patience=1"), 10),
        (("evaluation.every=20", "evaluation.patience=1"), 40),
    ],
)
def test_a_patience_that_cannot_be_lost_is_refused(
    configure: Configure, tmp_path: Path, more: tuple[str, ...], soonest: int
):
    for tried in (lambda config: run(config, tmp_path / "run"), outlook):
        with pytest.raises(
            ConfigError, match=f"a run ends early after round {soonest} at the soonest, and this one has"
        ):
            tried(configure("federation.rounds=10", *more))
    assert not (tmp_path / "run").exists()
    outlook(configure("federation.rounds=10", "evaluation.every=3", "evaluation.patience=2"))


@pytest.mark.parametrize("value", ["0", "-1", "1.5"])
def test_a_patience_of_none_is_no_patience(value: str):
    with pytest.raises(ConfigError, match=r"evaluation\.patience: found"):
        configuration.load(None, [f"evaluation.patience={value}"])
