from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Polyrank

METHODS = ("--methods", "replication,zero_padding,fedavg", "--ranks", "3", "--seeds", "0,1")


@pytest.fixture
def arguments(own_things: Path, tmp_path: Path) -> list[str | Path]:
    return ["compare", own_things / "study.toml", *METHODS, "--out", tmp_path / "out"]


def test_a_comparison_and_the_same_again(polyrank: Polyrank, arguments: list[str | Path], tmp_path: Path):
    """Six runs, a table, a page; the same command again runs nothing and gives the same result as JSON and CSV."""
    first = polyrank(*arguments, "--target", "0.3")
    assert first.code == 0, first.err
    assert first.out.count("after 2 rounds") == 6
    assert "rounds to 30 %" in first.out
    assert "fedavg, rank 3" in first.out
    found = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert found == {"comparison.json", "comparison.csv", "report.html", "settled.json"}
    as_json = polyrank(*arguments, "--target", "0.3", "--json")
    assert json.loads(as_json.out) == json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    as_csv = polyrank(*arguments, "--target", "0.3", "--csv")
    rows = list(csv.DictReader(io.StringIO(as_csv.out)))
    assert [row["method"] for row in rows] == ["replication", "zero_padding", "fedavg, rank 3"]
    methods = json.loads(as_json.out)["methods"]
    for row, method in zip(rows, methods, strict=True):
        assert float(row["end_mean"]) == method["end"]["mean"]
        assert row["seeds"] == "0 1"
    assert (json.loads(as_json.out)["correction"], json.loads(as_json.out)["level"]) == ("Holm", 0.05)
    assert "after Holm's correction for the number of methods" in " ".join(first.out.split())
    for row, method in zip(rows[1:], methods[1:], strict=True):
        for measure in ("end", "area"):
            written, corrected = row[f"{measure}_difference_p_holm"], method[f"{measure}_difference"]["p_holm"]
            assert written == ("" if corrected is None else str(corrected))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--methods", "replicaton"], "did you mean 'replication'"),
        (["--seeds", "0,0"], "--seeds 0,0: expected different numbers of 0 or more"),
        (["--seeds", "one"], "expected whole numbers with commas between"),
        (["--ranks", "0"], "--ranks 0: expected different numbers of 1 or more"),
        (["--json", "--csv"], "--json and --csv are both given"),
        (["--reference", "fedopt"], "no run is called 'fedopt'"),
        (["--target", "50"], "accuracy between 0 and 1"),
    ],
)
def test_mistakes_of_users(polyrank: Polyrank, arguments: list[str | Path], extra: list[str], message: str):
    """One line, exit code 2, and nothing was run: what can be refused is refused first."""
    result = polyrank(*arguments, *extra)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_a_file_in_the_place_of_the_folder(polyrank: Polyrank, arguments: list[str | Path], tmp_path: Path):
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    result = polyrank(*arguments)
    assert result.code == 2
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"
