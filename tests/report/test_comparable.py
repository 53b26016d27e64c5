"""Which runs a report puts side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyrank.core.errors import RunFolderError
from polyrank.report import answer
from polyrank.report.runs import find, grouped
from tests.report.folders import write_run

OTHER = {"training texts": "41 rows, zz"}


@pytest.mark.parametrize("name", ["test texts", "classes"])
def test_runs_that_were_tested_on_other_data_are_refused(tmp_path: Path, name: str):
    """Whatever their configurations say: an accuracy on other texts, or of other classes, says nothing of this one."""
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "zero_padding", digests={name: "9 rows, zz"}, data={"train": "b.csv"})
    with pytest.raises(RunFolderError, match=f"were not tested on the same data: {name} were .* and are 9 rows, zz"):
        grouped(find([tmp_path]))


def test_a_test_set_that_is_cut_from_other_training_data_is_another(tmp_path: Path):
    cut = {"test texts": "a part of the training data"}
    write_run(tmp_path / "a", digests=cut)
    write_run(tmp_path / "b", "zero_padding", digests={**cut, **OTHER}, data={"train": "b.csv"})
    with pytest.raises(RunFolderError, match="not tested on the same data: training texts were 40 rows, aa and are 41"):
        grouped(find([tmp_path]))


@pytest.mark.parametrize(("key", "value"), [("limit_test", 5), ("test_share", 0.5)])
def test_another_part_of_the_same_data_is_another_test_set(tmp_path: Path, key: str, value: float):
    cut = {"test texts": "a part of the training data"}
    write_run(tmp_path / "a", digests=cut)
    write_run(tmp_path / "b", "zero_padding", digests=cut, data={key: value})
    with pytest.raises(RunFolderError, match=rf"data\.{key} were .* and are {value}"):
        grouped(find([tmp_path]))


@pytest.mark.parametrize(("method", "seed"), [("replication", 1), ("zero_padding", 0)])
@pytest.mark.parametrize(
    ("section", "digests"), [("data", OTHER), ("model", {"model's weights": "zz"}), ("model", {"vocabulary": "zz"})]
)
def test_what_changed_under_the_same_name_is_refused(
    tmp_path: Path, method: str, seed: int, section: str, digests: dict[str, str]
):
    """Another seed of the same method would be taken for chance, another method for a better one."""
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", method, seed, digests=digests)
    with pytest.raises(RunFolderError, match=rf"have the same \[{section}\], but it changed between them: "):
        grouped(find([tmp_path]))


def test_other_training_data_may_be_compared_where_the_configuration_names_them(tmp_path: Path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", digests=OTHER, data={"train": "more.csv"})
    assert list(grouped(find([tmp_path]))) == ["replication, train=stdlib-docs", "replication, train=more.csv"]


def test_data_that_moved_are_the_same(tmp_path: Path):
    write_run(tmp_path / "a", data={"train": "a.csv", "test": "t.csv"})
    write_run(tmp_path / "b", seed=1, data={"train": "b/a.csv", "test": "b/t.csv"})
    assert {name: len(runs) for name, runs in grouped(find([tmp_path])).items()} == {"replication": 2}


def test_what_an_earlier_version_did_not_keep_is_said(tmp_path: Path):
    write_run(tmp_path / "a", old=True)
    alone = answer.notices(grouped(find([tmp_path])))
    assert not any("earlier PolyRank" in notice for notice in alone)
    write_run(tmp_path / "b", "zero_padding")
    both = answer.notices(grouped(find([tmp_path])))
    assert any("earlier PolyRank, which did not keep what their data and model held" in notice for notice in both)


def test_other_schedules_of_evaluation_are_said(tmp_path: Path):
    """Six rounds, evaluated each and every second one; and of the same schedule but not as far."""
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "zero_padding", rounds=4)
    said = "The runs were not evaluated in the same rounds, so means over rounds are of different rounds."
    assert said not in answer.notices(grouped(find([tmp_path])))
    write_run(tmp_path / "c", "tempered", every=2)
    assert said in answer.notices(grouped(find([tmp_path])))
