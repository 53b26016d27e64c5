from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from polyrank import data
from polyrank.data.digest import classes, digest
from polyrank.quickstart import stdlib_docs

ROWS = [(f"text {i}", "pos" if i % 2 else "neg") for i in range(20)]


def digests(path: Path, rows: Sequence[tuple[str, str]] = ROWS, **options: object) -> dict[str, str]:
    """Of the rows, written to a csv file."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return dict(data.load(str(path), **options).digests)  # type: ignore[arg-type]  # of load, by name


def test_a_digest_is_that_of_the_rows_and_says_how_many(tmp_path: Path):
    """sha256 over each row's length in 8 bytes and its UTF-8, the first 16 digits."""
    found = digests(tmp_path / "a.csv")
    raw = b"".join(len(text).to_bytes(8, "little") + text.encode() for text, _ in ROWS)
    assert found["training texts"] == f"20 rows, {hashlib.sha256(raw).hexdigest()[:16]}"
    assert found.keys() == {"training texts", "training labels", "classes", "test texts"}
    assert (found["classes"], found["test texts"]) == ("neg, pos", "a part of the training data")


def test_name_place_and_format_of_the_file_are_no_part_of_it(tmp_path: Path):
    found = digests(tmp_path / "a.csv")
    assert digests(tmp_path / "elsewhere" / "b.csv") == found
    lines = [json.dumps({"label": label, "text": text, "more": 1}) for text, label in ROWS]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert data.load(str(tmp_path / "a.jsonl")).digests == found


def test_seed_and_limits_are_no_part_of_it(tmp_path: Path):
    found = digests(tmp_path / "a.csv")
    assert digests(tmp_path / "a.csv", seed=5, limit_train=4, test_share=0.5) == found


@pytest.mark.parametrize(
    ("rows", "changed"),
    [
        ([(text, "neg" if label == "pos" else "pos") for text, label in ROWS], {"training labels"}),
        ([(text, "a" if label == "pos" else "b") for text, label in ROWS], {"training labels", "classes"}),
        ([(text + ".", label) for text, label in ROWS], {"training texts"}),
        (ROWS[::-1], {"training texts", "training labels"}),
        ([*ROWS, ROWS[0]], {"training texts", "training labels"}),
        ([("text 0t", "neg"), ("ext 1", "pos"), *ROWS[2:]], {"training texts"}),
    ],
    ids=[
        "labels swapped",
        "classes renamed",
        "a full stop",
        "another order",
        "one row more",
        "a letter moved a row on",
    ],
)
def test_each_change_is_seen_and_nothing_else(tmp_path: Path, rows: list[tuple[str, str]], changed: set[str]):
    before, after = digests(tmp_path / "a.csv"), digests(tmp_path / "a.csv", rows)
    assert {name for name in before if before[name] != after[name]} == changed


def test_test_data_and_client_columns_have_digests_of_their_own(tmp_path: Path):
    other = tmp_path / "test.csv"
    digests(other, ROWS[:6])
    found = digests(tmp_path / "a.csv", test=str(other), extra_columns=["label"])
    assert found["test texts"].startswith("6 rows, ")
    assert found["training values of 'label'"] == found["training labels"]
    digests(other, ROWS[2:8])
    assert digests(tmp_path / "a.csv", test=str(other))["test texts"] != found["test texts"]


def test_the_standard_library_of_another_python_is_other_data(monkeypatch: pytest.MonkeyPatch):
    train, test = stdlib_docs.split()
    found = data.load("stdlib-docs").digests
    assert data.load("stdlib-docs").digests == found
    monkeypatch.setattr(stdlib_docs, "split", lambda: (train[1:], test))
    assert data.load("stdlib-docs").digests["training texts"] != found["training texts"]


def test_half_of_a_surrogate_pair_has_a_digest():
    assert digest(["\ud83d"]) != digest(["?"])


def test_many_classes_are_told_apart_by_the_last_one():
    names = tuple(f"class {i}" for i in range(100))
    assert classes(names).startswith("class 0, class 1, class 2, class 3, class 4 and 95 more, ")
    assert classes(names) != classes((*names[:-1], "other"))
