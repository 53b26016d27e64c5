from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from polyrank.comparison.compare import Planned, compare, finished, plan
from polyrank.comparison.entries import entries
from polyrank.config import Config
from polyrank.core.errors import RunFolderError
from polyrank.core.state import ServerState
from polyrank.federation import scoring
from polyrank.report.runs import find, grouped
from polyrank.report.statistics import compare as compared
from polyrank.report.tables import as_json
from polyrank.runs import checkpoint, runner
from polyrank.runs.folder import RunFolder
from polyrank.runs.listener import Listener
from tests.conftest import Configure

METHODS = ("replication", "zero_padding", "flexlora")


def study(configure: Configure) -> Config:
    """Two rounds of six clients that are scored for rank 4."""
    ranks = ("ranks.policy=validation", "ranks.validation_per_label=4", "ranks.counts=[4, 2]")
    return configure("federation.rounds=2", *ranks)


def planned(configure: Configure, out: Path, seeds: tuple[int, ...] = (0, 1)) -> list[Planned]:
    return plan(entries(study(configure), [*METHODS, "fedavg"], [3]), seeds, out)


@pytest.fixture(scope="module")
def done(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "out"
    compare(planned(configure, out), out)
    return out


def test_equal_seeds_mean_equal_cohorts_clients_and_initial_tensors(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Initial factors of rank 3 are the first rows of those of rank 4: A is drawn row by row, B is zero."""
    starts: dict[str, ServerState] = {}
    save = checkpoint.save

    def spy(folder: Path, state: ServerState, fingerprint: str) -> None:
        if state.round == 0:
            starts[folder.parent.parent.name, folder.parent.name] = state
        save(folder, state, fingerprint)

    monkeypatch.setattr(checkpoint, "save", spy)
    compare(planned(configure, tmp_path), tmp_path)
    lines = {one.folder: RunFolder(one.folder).read_metrics() for one in planned(configure, tmp_path)}
    for seed in ("seed-0", "seed-1"):
        cohorts = [[line["clients"] for line in own] for folder, own in lines.items() if folder.name == seed]
        assert all(cohort == cohorts[0] for cohort in cohorts)
        tables = [RunFolder(tmp_path / name / seed).read_json("clients")["clients"] for name in METHODS]
        assert all(table == tables[0] for table in tables)
        first = starts["replication", seed]
        for name in METHODS:
            assert starts[name, seed].adapter.identical(first.adapter)
            assert starts[name, seed].ranks == first.ranks
        for name, factors in starts["fedavg-rank-3", seed].adapter.modules.items():
            assert torch.equal(factors.a, first.adapter.modules[name].a[:3])
            assert not factors.b.any()
    assert lines[tmp_path / "replication" / "seed-0"] != lines[tmp_path / "replication" / "seed-1"]


def test_clients_are_scored_once_per_seed_and_with_the_same_result(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    count = 0
    losses = scoring._losses

    def counted(*arguments: Any) -> Mapping[str, float]:
        nonlocal count
        count += 1
        return losses(*arguments)

    monkeypatch.setattr(scoring, "_losses", counted)
    compare(planned(configure, tmp_path, (0,)), tmp_path)
    assert count == 1
    for one in planned(configure, tmp_path, (0,)):
        alone = runner.run(one.entry.seeded(0), tmp_path / "alone", overwrite=True)
        assert alone["test/loss"] == RunFolder(one.folder).read_json("summary")["test/loss"]
        assert alone["bytes/up"] == RunFolder(one.folder).read_json("summary")["bytes/up"]
    assert count == 1 + len(METHODS)


class Killed(BaseException):
    """As Ctrl-C or a crash ends a run."""


class KillAfter(Listener):
    """Ends the run when a round is saved."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def on_saved(self, round_number: int) -> None:
        if round_number == self.rounds:
            raise Killed


def untimed(out: Path) -> dict[str, Any]:
    return as_json(compared(grouped(find([out]))))


def test_a_comparison_that_is_killed_and_continued_gives_the_same_table(
    configure: Configure, done: Path, tmp_path: Path
):
    """Killed in the middle of the second run of the second seed, then once more before the first round of the next."""
    todo = planned(configure, tmp_path)

    def killer(at: str, rounds: int) -> Any:
        return lambda one: KillAfter(rounds) if one.name == at else None

    with pytest.raises(Killed):
        compare(todo, tmp_path, listener=killer("zero_padding, seed 1", 1))
    assert [finished(one) for one in todo] == [True] * 5 + [False] * 3
    with pytest.raises(Killed):
        compare(todo, tmp_path, listener=killer("flexlora, seed 1", 0))
    started: list[str] = []
    compare(todo, tmp_path, listener=lambda one: started.append(one.name))
    assert started == ["flexlora, seed 1", "fedavg-rank-3, seed 1"]
    assert untimed(tmp_path) == untimed(done)
    for one, other in zip(todo, planned(configure, done), strict=True):
        ours, theirs = (checkpoint.load(p.folder / "checkpoint") for p in (one, other))
        assert ours.adapter.identical(theirs.adapter)


def test_finished_runs_are_reused_and_methods_seeds_and_rounds_can_be_added(configure: Configure, tmp_path: Path):
    few = plan(entries(study(configure), METHODS[:1]), [0], tmp_path)
    compare(few, tmp_path)
    before = (few[0].folder / "metrics.jsonl").stat().st_mtime_ns
    more = plan(entries(study(configure), METHODS[:2]), [0, 1], tmp_path)
    assert [finished(one) for one in more] == [True, False, False, False]
    compare(more, tmp_path)
    assert (few[0].folder / "metrics.jsonl").stat().st_mtime_ns == before
    longer = study(configure).model_copy(
        update={"federation": study(configure).federation.model_copy(update={"rounds": 3})}
    )
    (folder,) = compare(plan(entries(longer, METHODS[:1]), [0], tmp_path), tmp_path)
    assert [line["round"] for line in RunFolder(folder).read_metrics()] == [1, 2, 3]


def test_what_is_auto_is_measured_by_the_first_run_alone(configure: Configure, tmp_path: Path):
    auto = configure("federation.rounds=1", "training.precision=auto", "training.clients_per_pass=auto")
    todo = plan(entries(auto, METHODS[:2]), [0], tmp_path)
    compare(todo, tmp_path)
    one, other = (RunFolder(p.folder).read_config().training for p in todo)
    assert one == other
    assert json.loads((tmp_path / "settled.json").read_text(encoding="utf-8"))["precision"] == one.precision


def test_a_folder_of_another_configuration_is_refused_before_anything_runs(configure: Configure, done: Path):
    other = study(configure).model_copy(update={"training": study(configure).training.model_copy(update={"lr": 1e-4})})
    new = [Planned(entry, 2, done / entry.name / "seed-2") for entry in entries(other, METHODS[:1])]
    with pytest.raises(RunFolderError, match=r"training\.lr is 0\.005 there and 0\.0001 here"):
        compare([*new, *plan(entries(other, METHODS), [0], done)], done)
    assert not new[0].folder.exists()
    shorter = configure("federation.rounds=1", *("ranks.policy=validation", "ranks.validation_per_label=4"))
    with pytest.raises(RunFolderError, match=r"2 finished rounds and federation\.rounds is 1"):
        compare(plan(entries(shorter, METHODS), [0], done), done)


def few(configure: Configure, *overrides: str) -> Config:
    """Two rounds at ranks that nobody is scored for."""
    return configure("federation.rounds=2", "evaluation.diagnostics=false", *overrides)


def test_a_trial_is_not_taken_for_the_full_comparison(configure: Configure, tmp_path: Path):
    """Three clients and 60 texts, finished; then the same command without these settings. Both orders of the two."""
    trial = few(configure, "federation.clients=3", "data.limit_train=60", "ranks.counts=[2, 1]")
    full = few(configure).model_copy(update={"ranks": trial.ranks})
    full = full.model_copy(update={"federation": full.federation.model_copy(update={"clients": None})})
    compare(plan(entries(trial, METHODS[:1]), [0], tmp_path), tmp_path)
    before = (tmp_path / "replication" / "seed-0" / "summary.json").read_bytes()
    for call in (finished, lambda one: compare([one], tmp_path)):
        (one,) = plan(entries(full, METHODS[:1]), [0], tmp_path)
        with pytest.raises(
            RunFolderError, match=r"data\.limit_train is 60 there and not set here; federation\.clients"
        ):
            call(one)
    assert (tmp_path / "replication" / "seed-0" / "summary.json").read_bytes() == before
    (again,) = plan(entries(trial, METHODS[:1]), [0], tmp_path)
    assert finished(again)


def test_runs_on_data_that_were_edited_are_not_put_beside_others(configure: Configure, tmp_path: Path):
    """One text more in the file: a second method would be trained on it, and the first one was not."""
    given = Path(configure().data.train).read_text(encoding="utf-8")
    data, out = tmp_path / "data.csv", tmp_path / "out"
    data.write_text(given, encoding="utf-8")
    config = few(configure, f"data.train={data}")
    compare(plan(entries(config, METHODS[:1]), [0], out), out)
    data.write_text(given + "a new apple,fruit,ann\n", encoding="utf-8")
    both = plan(entries(config, METHODS[:2]), [0], out)
    with pytest.raises(
        RunFolderError, match=r"seed-0: the data or the model changed .* texts were 240 rows.* 241 rows"
    ):
        compare(both, out)
    assert not both[1].folder.exists()
    data.unlink()
    (tmp_path / "moved").mkdir()
    moved = few(configure, f"data.train={tmp_path / 'moved' / 'a.csv'}")
    Path(moved.data.train).write_text(given, encoding="utf-8")
    folders = compare(plan(entries(moved, METHODS[:2]), [0], out), out)
    assert list(grouped(find(folders))) == ["replication", "zero_padding"]


def test_methods_are_evaluated_in_the_same_rounds(configure: Configure, tmp_path: Path):
    """Finished with an evaluation in each of three rounds; asked for in every second one, it has those of the others.

    Every second round of three, and the last: 2 and 3.
    """
    often, seldom = (configure("federation.rounds=3", f"evaluation.every={every}") for every in (1, 2))
    compare(plan(entries(often, METHODS[:1]), [0], tmp_path), tmp_path)
    both = plan(entries(seldom, METHODS[:2]), [0], tmp_path)
    assert [finished(one) for one in both] == [False, False]
    runs = find(compare(both, tmp_path))
    assert [run.rounds for run in runs] == [[2, 3], [2, 3]]
    assert runs[0].summary is not None
    assert runs[0].summary["best/accuracy"] == max(runs[0].values)
    with pytest.raises(RunFolderError, match=r"round 1 was not evaluated, and with evaluation\.every 1 it would have"):
        finished(plan(entries(often, METHODS[:1]), [0], tmp_path)[0])


def test_a_folder_of_an_earlier_version_is_not_reused(configure: Configure, tmp_path: Path):
    todo = plan(entries(few(configure), METHODS[:1]), [0], tmp_path)
    compare(todo, tmp_path)
    (todo[0].folder / "requested.toml").unlink()
    with pytest.raises(RunFolderError, match="an earlier PolyRank, which did not keep what was asked for"):
        finished(todo[0])


def test_a_finished_run_without_its_measurements_is_not_finished(configure: Configure, tmp_path: Path):
    todo = plan(entries(few(configure), METHODS[:1]), [0], tmp_path)
    compare(todo, tmp_path)
    RunFolder(todo[0].folder).metrics.unlink()
    assert not finished(todo[0])
    with pytest.raises(RunFolderError, match=r"has no line of round 1"):
        compare(todo, tmp_path)
    with pytest.raises(RunFolderError, match=r"finished after 2 rounds, and its metrics\.jsonl has 0"):
        find([tmp_path])


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"engine": "none"}'])
def test_what_was_measured_for_all_runs_is_not_guessed(configure: Configure, tmp_path: Path, text: str):
    (tmp_path / "settled.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"settled\.json is damaged"):
        compare(plan(entries(configure("training.engine=auto"), METHODS[:1]), [0], tmp_path), tmp_path)


def test_what_an_earlier_version_measured_is_of_one_lane(configure: Configure, tmp_path: Path):
    """It knew of no lanes; the runs that are missing are made as the others were."""
    measured = {
        "engine": "sequential",
        "clients_per_pass": 1,
        "workers": 1,
        "precision": "float32",
        "attention": "eager",
    }
    (tmp_path / "settled.json").write_text(json.dumps(measured))
    todo = plan(entries(configure("training.lanes=auto", "training.engine=auto"), METHODS[:1]), [0], tmp_path)
    compare(todo, tmp_path)
    training = RunFolder(todo[0].folder).read_config().training
    assert (training.engine, training.lanes) == ("sequential", 1)


def test_a_run_that_had_saved_nothing_is_begun_anew(configure: Configure, tmp_path: Path):
    """Stopped between its first two files."""
    todo = plan(entries(few(configure), METHODS[:1]), [0], tmp_path)
    folder = RunFolder(todo[0].folder)
    folder.create(overwrite=False)
    folder.config.write_text("", encoding="utf-8")
    compare(todo, tmp_path)
    assert finished(todo[0])
