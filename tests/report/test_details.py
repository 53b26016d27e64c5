from __future__ import annotations

import re
from pathlib import Path

from polyrank.report import details
from polyrank.report.statistics import compare
from tests.report import folders


def cells(html: str) -> list[list[str]]:
    """The rows of the body of the first table."""
    body = html[html.index("<tbody>") : html.index("</tbody>")]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]


def test_ranks_are_counted_and_equal_methods_share_rows(tmp_path):
    same = {name: [folders.run(tmp_path / name, name)] for name in ("replication", "flora")}
    rows = [["all methods", "2", "3", "10", "3 skewed"], ["all methods", "6", "1", "10", "1 skewed"]]
    assert cells(details.ranks_table(same)) == rows
    both = {**same, "fedavg": [folders.run(tmp_path / "c", "fedavg", ranks=(4, 4))]}
    assert [row[:3] for row in cells(details.ranks_table(both))] == [
        *(["replication and flora", "2", "3"], ["replication and flora", "6", "1"], ["fedavg", "4", "2"]),
    ]


def test_a_run_has_its_bytes_with_scoring_and_its_folder_as_seen_from_the_page(tmp_path):
    """6 rounds of 5000 bytes and 1000 for scoring each way: 31000 bytes = 30.3 KiB; 6 * 1.5 s = 9 s."""
    runs = [folders.run(tmp_path / "runs" / "a")]
    (row,) = cells(details.runs_table({"replication": runs}, tmp_path / "report.html"))
    assert row[:3] == ["replication", "0", "6 of 6"]
    assert row[4:] == ["30.3 KiB", "30.3 KiB", "9 s", "1.0 GiB", "0", str(Path("runs") / "a")]
    (beside,) = cells(details.runs_table({"replication": runs}, tmp_path / "runs" / "a" / "report.html"))
    assert beside[-1] == "a"


def test_updates_that_were_left_out_are_listed_and_many_are_counted(tmp_path):
    none = {"a": [folders.run(tmp_path / "a")]}
    assert details.failures_table(none) == ""
    many = {f"client-{i}": "NaN" for i in range(details.MOST_FAILURES + 3)}
    made = details.failures_table({"a": [folders.run(tmp_path / "b", dropped={2: many})]})
    assert cells(made)[0] == ["a, seed 0", "2", "client-0", "NaN"]
    assert len(cells(made)) == details.MOST_FAILURES
    assert "and 3 more" in made


def test_one_method_has_no_column_of_differences(tmp_path):
    one = {"replication": [folders.run(tmp_path / "a")]}
    two = {**one, "flora": [folders.run(tmp_path / "b", "flora")]}
    assert "against replication" not in details.comparison_table(compare(one))
    assert "end, against replication" in details.comparison_table(compare(two))


def test_versions_that_differ_are_told_apart(tmp_path):
    groups = {"a": [folders.run(tmp_path / str(seed), seed=seed) for seed in (0, 1)]}
    groups["a"][1].about["versions"]["torch"] = "2.6.0"
    made = details.versions_details(groups)
    assert ["torch", "2.13.0"] not in cells(made)
    assert ["cores", "2"] in cells(made)
    differing = made[made.index("Differences between the runs") :]
    assert cells(differing) == [["a, seed 0", "2.13.0"], ["a, seed 1", "2.6.0"]]
