"""Reports and comparisons of runs whose metric is better the lower it is, and is no share of 1; winners are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyrank.core.errors import ConfigError, RunFolderError
from polyrank.report import answer, clients, details, page, sections, tables
from polyrank.report.figure import looks
from polyrank.report.runs import Run, find, grouped
from polyrank.report.statistics import compare, rounds_to
from polyrank.tasks import registry
from tests.report import records
from tests.report.folders import write_run
from tests.tasks.doctored import REGISTRY


@pytest.fixture(autouse=True)
def writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TASKS", REGISTRY)


def made(*values: float, seed: int = 0, method: str = "replication", lost: tuple[int, ...] = ()) -> Run:
    return records.made(values, f"aggregation.method={method}", seed=seed, task="writing", lost=lost)


def seeds(*ends: float, method: str = "replication") -> list[Run]:
    return [made(end, seed=seed, method=method) for seed, end in enumerate(ends)]


def test_a_target_is_reached_from_above():
    run = made(90.0, 60.0, 40.0, 50.0, 20.0)
    assert [rounds_to(run, target) for target in (95, 60, 40, 30, 10)] == [1, 2, 3, 5, None]


def test_the_lowest_wins_and_sets_the_target():
    """The better one ends at 20 in all seeds: 22 is a tenth above that, and it alone reaches it."""
    groups = {"replication": seeds(40.0, 41.0, 42.0), "zero_padding": seeds(20.0, 21.0, 19.0, method="zero_padding")}
    found = compare(groups)
    assert found.target == pytest.approx(22)
    assert [row.rounds_to_target for row in found.rows] == [(None,) * 3, (1, 1, 1)]
    difference = found.row("zero_padding").end_difference
    assert difference is not None
    assert difference.mean == pytest.approx(-21)
    assert difference.proven
    said = answer.sentence(groups, found)
    assert said.startswith(
        "zero_padding is ahead of replication by 21.0 of test perplexity at the end (20.0 against 41.0"
    )
    assert "; 95 % confidence interval +16.7 to +25.3" in said  # of 20, 20 and 23: 21 ± 4.303 * 3 ** 0.5 / 3 ** 0.5
    assert said.endswith("; 22 is reached in round 1, and never by replication.")


def test_what_chance_may_have_made_is_no_win_either_way():
    groups = {"replication": seeds(30.0, 20.0, 25.0), "zero_padding": seeds(20.0, 28.0, 24.0, method="zero_padding")}
    said = answer.sentence(groups, compare(groups))
    assert said.startswith("zero_padding ends 1.0 of test perplexity below replication (24.0 against 25.0)")
    assert "within the spread of the seeds" in said


def test_the_reference_can_be_the_best():
    groups = {"replication": seeds(20.0), "zero_padding": seeds(30.0, method="zero_padding")}
    said = answer.sentence(groups, compare(groups))
    assert said.startswith(
        "replication ends 10.0 of test perplexity below zero_padding (20.0 against 30.0), with one seed"
    )


def test_one_run_is_told_with_its_metric():
    groups = {"replication": [made(90.0, 50.0)]}
    assert answer.sentence(groups, compare(groups)) == (
        "replication reaches a test perplexity of 70.0 after 2 rounds (mean of the last 2 evaluated rounds; one seed), "
        "77 for the first time in round 2."
    )


def test_a_run_that_was_lost_is_the_worst_and_is_named():
    """Its last value was not finite: it is neither left out of its mean nor taken for a good one."""
    groups = {"replication": [made(90.0, 50.0, lost=(2,))], "zero_padding": [made(95.0, 94.0, method="zero_padding")]}
    found = compare(groups)
    assert answer.sentence(groups, found).startswith(
        "zero_padding ends at a test perplexity of 94.5 and replication at no finite number; 104 is reached in round 1"
    )
    assert "replication, seed 0: the test perplexity was no finite number in 1 evaluated round." in answer.notices(
        groups
    )
    assert json.loads(tables.json_text(found))["methods"][0]["end"] == {"mean": None, "deviation": None}
    assert "Infinity" not in tables.json_text(found)
    assert tables.cells(found.rows[0], found.metric)[3] == "-"


def test_tables_say_their_metric():
    groups = {"replication": seeds(40.0, 42.0), "zero_padding": seeds(20.0, 21.0, method="zero_padding")}
    found = compare(groups, target=30)
    assert tables.headings(found)[1:4] == ("rounds to 30", "MiB to 30", "perplexity at the end")
    assert tables.cells(found.rows[1], found.metric)[3] == "20.5 ± 0.7"
    assert tables.note(found.metric).startswith("perplexity: less is better; end: mean")
    told = tables.as_json(found)
    assert (told["metric"], told["better"], told["target"]) == ("perplexity", "lower", 30)
    assert "perplexity over the rounds" in details.comparison_table(found)


def test_a_target_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"target: found 0\.5; expected a perplexity above 1"):
        compare({"replication": seeds(40.0)}, target=0.5)


def test_a_page_of_another_task(tmp_path: Path):
    """From the folders alone: headings, figures and axes are of its metrics, and none is in per cent."""
    write_run(tmp_path / "a", accuracy=0.6, task="writing")
    write_run(tmp_path / "b", "zero_padding", accuracy=0.3, task="writing")
    groups = grouped(find([tmp_path]))
    found = compare(groups)
    learning = sections.sections(groups, found)[0]
    assert learning.title == "Perplexity and loss"
    assert [figure.title for figure in learning.figures][::2] == [
        "Test perplexity against rounds",
        "Test loss against rounds",
    ]
    first = learning.figures[0].plot  # type: ignore[union-attr]
    assert (first.layout.yaxis.title.text, first.layout.yaxis.tickformat) == ("test perplexity", None)
    assert {note.text for note in first.layout.annotations} == {f"target {found.target:g}", "best constant answer 90.0"}
    grouped_by_rank = clients.rank_groups_figure(groups, looks(groups))
    assert grouped_by_rank.title == "Perplexity of each rank group"
    text = page.html(tmp_path / "page.html", groups, found)
    # 30 times the mean of 1 - exp(-n / 2) over rounds 2 to 6, which is 0.828
    assert "zero_padding ends 24.9 of test perplexity below replication" in text
    assert "last perplexity" in text


def test_runs_of_different_tasks_are_not_compared(tmp_path: Path):
    write_run(tmp_path / "a", task="writing")
    write_run(tmp_path / "b", "zero_padding")
    with pytest.raises(RunFolderError, match="are of different tasks, writing and classification: give each a report"):
        grouped(find([tmp_path]))


def test_a_task_that_this_version_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_run(tmp_path / "a", task="writing")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="there is no task 'writing'"):
        compare(grouped(find([tmp_path])))


def test_an_old_folder_is_of_classification(tmp_path: Path):
    write_run(tmp_path / "a")
    about = json.loads((tmp_path / "a" / "run.json").read_text())
    del about["task"]
    (tmp_path / "a" / "run.json").write_text(json.dumps(about))
    text = (tmp_path / "a" / "config.toml").read_text().replace('[task]\nname = "classification"\n', "")
    (tmp_path / "a" / "config.toml").write_text(text)
    (run,) = find([tmp_path])
    assert run.task.primary.name == "accuracy"
