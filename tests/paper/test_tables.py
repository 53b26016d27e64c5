"""Tables and figures say what the archived runs say."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from paper.studies import TABLES
from paper.tables import RESULTS, by_entry, gaps, show, studies

from paper import figures
from polyrank.report.statistics import area

MEASURED = [table for table in TABLES if (RESULTS / f"{table}.jsonl").is_file()]


@pytest.mark.parametrize("table", MEASURED)
def test_every_archived_run_belongs_to_a_study_and_is_shown(table: str):
    found = studies(table)
    lines = (RESULTS / f"{table}.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(len(runs) for runs in found.values()) == len(lines)
    text = show(table)
    assert len(TABLES[table]) == 1 or all(name in text for name in found)
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_seeds_are_paired_by_hand():
    """The difference of each seed that both methods have, and the table's mean of them."""
    entries = by_entry(studies("methods")["ranks-5-20"])
    found = gaps(entries, "replication", "zero_padding", area)
    assert found.keys() == {0, 1, 2}
    for seed, value in found.items():
        ours, theirs = entries["replication"][seed], entries["zero_padding"][seed]
        assert value == pytest.approx(area(ours) - area(theirs))
    first = studies("when_ag_news")["ranks-random"]
    gap = 100 * statistics.fmean(gaps(by_entry(first), "replication", "zero_padding", area).values())
    row = next(line for line in show("when_ag_news").splitlines() if line.startswith("| ranks-random |"))
    assert row.split("|")[4].strip().startswith(f"{gap:+.1f}")


def test_what_is_not_measured_is_left_out(tmp_path: Path):
    assert studies("curves", tmp_path) == {}
    assert show("curves", tmp_path) == ""
    assert figures.when(tmp_path, "ag_news") is None


def test_figures_hold_every_seed():
    made = figures.when(RESULTS, "ag_news")
    assert made is not None
    dots = [trace for trace in made.plot.data if not trace.showlegend]
    expected = [
        100 * gap
        for what, against in figures.DOTS
        for runs in studies("when_ag_news").values()
        for gap in gaps(by_entry(runs), what, against, area).values()
    ]
    assert sorted(x for trace in dots for x in trace.x) == pytest.approx(sorted(expected))
    assert [trace.name for trace in made.plot.data if trace.showlegend] == [what for what, _ in figures.DOTS]
    lines = figures.gamma(RESULTS).plot.data
    assert list(lines[-1].x) == [0, 0.1, 0.25, 0.5, 0.75, 1]
