"""Tables and figures say what the archived runs say."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from paper.studies import TABLES
from paper.tables import RESULTS, by_entry, chosen, gaps, rates, show, studies

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


def test_the_nearest_is_whoever_loses_least_in_the_seeds_that_both_have():
    runs = studies("when_ag_news")["ranks-random"]
    entries = by_entry(runs)
    behind = {
        other: statistics.fmean(gaps(entries, "validated", other, area).values())
        for other in entries
        if other != "validated" and gaps(entries, "validated", other, area)
    }
    nearest = min(behind, key=lambda other: behind[other])
    (row,) = [line.split(" | ") for line in chosen({"ranks-random": runs}).splitlines()[2:]]
    assert row[3] == nearest.replace("-keep_unowned-True", " keep_unowned")
    assert row[4].startswith(f"{100 * behind[nearest]:+.1f} ± ")
    others = [run for name, own in entries.items() if name != "validated" for run in own.values()]
    assert len(chosen({"ranks-random": others}).splitlines()) == 2


def test_a_rate_is_chosen_by_the_first_seed_and_judged_by_the_others():
    found = {name: studies("when_ag_news")[name] for name in ("lr-1e-3", "lr-1e-2")}
    rows = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in rates(found).splitlines()[2:]
    }
    own = {name: by_entry(runs)["shrinkage"] for name, runs in found.items()}
    assert rows["shrinkage"] == [
        *(", ".join(f"{100 * area(own[name][seed]):.1f}" for seed in (0, 1)) for name in found),
        "lr-1e-2",
        f"{100 * area(own['lr-1e-2'][1]):.1f}",
    ]


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
