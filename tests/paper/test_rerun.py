"""The main table's runs come out again: the quickstart's, whose model and texts are here."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from paper.tables import RESULTS

from paper import archive, rerun
from polyrank.report.runs import Run

KEPT = archive.load(RESULTS / "quickstart.jsonl")


def kept(method: str) -> dict:
    return next(line for name, line in KEPT.items() if name.startswith(f"quickstart/{method}/seed-0/"))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("method", ["replication", "zero_padding"])
def test_two_rounds_of_the_main_table_come_out_again(method: str, tmp_path: Path):
    """Ranks, bytes and owners' weights to the last digit kept; what was learned as far as rounding lets it be."""
    line = kept(method)
    if line["machine"]["python"] != platform.python_version():
        pytest.skip(f"the texts are those of Python {line['machine']['python']}")
    run = rerun.rerun(line, rerun.config_of(line, 2, None, None), tmp_path / "run")
    assert len(run.lines) == 2
    for then, now in zip(line["lines"], run.lines, strict=False):
        assert rerun.differing(then, now) == []
        assert now["test/loss"] == pytest.approx(then["test/loss"], rel=0.02)
        assert now["test/accuracy"] == pytest.approx(then["test/accuracy"], abs=0.03)
    assert "| 2 |" in rerun.table(line, run)


def test_what_is_rerun_is_what_was_run_cut_to_its_first_rounds(tmp_path: Path):
    line = kept("replication")
    config = rerun.config_of(line, 2, None, None)
    assert config.federation.rounds == 2
    again = rerun.config_of(line, line["config"]["federation"]["rounds"], None, None)
    assert archive._portable(again, resolved=True) == {**archive._portable(config, resolved=True)} | {
        "federation": line["config"]["federation"]
    }
    news = next(iter(archive.load(RESULTS / "methods.jsonl").values()))
    found = rerun.config_of(news, 2, "there", tmp_path)
    assert (found.model.name, found.data.train) == ("there", str(tmp_path / "ag_news" / "train.csv"))
    with pytest.raises(SystemExit, match=r"measured on the local file ag_news/train.csv.*: give --data"):
        rerun.main(["methods"])


def test_another_number_is_named():
    then = {"bytes/up": 3, "bytes/down": 4, "rows/owners_weight": [1.0, 0.333333]}
    assert rerun.differing(then, {"bytes/up": 3, "bytes/down": 4, "rows/owners_weight": [1.0, 1 / 3]}) == []
    assert rerun.differing(then, {"bytes/up": 5, "bytes/down": 4}) == ["bytes/up", "rows/owners_weight"]


def test_an_unknown_run_is_refused_with_those_that_there_are():
    with pytest.raises(SystemExit, match="no run of quickstart begins with 'nothing'; there are quickstart/"):
        rerun.main(["quickstart", "--key", "nothing"])


def test_the_table_says_what_is_other():
    line = kept("replication")
    run = Run(Path("x"), rerun.config_of(line, 2, None, None), [{**line["lines"][0], "bytes/up": 1}], {}, None, {}, {})
    assert "| other: bytes/up |" in rerun.table(line, run)
