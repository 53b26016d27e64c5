"""A folder of plain texts: a file is a text, whatever lines it has; what is no text there is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyrank.core.errors import DataError
from polyrank.data.sources import load
from polyrank.data.sources.files import looks_like_path, read_file

LETTERS = {
    "orders/b.txt": "two\nlines\n\nyours",
    "orders/late/a.txt": "\ufeffGrüße",
    "a.txt": "NA",
    "old/c.txt": "x",
}


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    for name, text in LETTERS.items():
        path = tmp_path / "letters" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    return tmp_path / "letters"


def test_a_file_is_a_text_and_knows_its_folder(letters: Path):
    (letters / "notes.md").write_text("not read", encoding="utf-8")
    table = read_file(str(letters))
    assert {name: list(column) for name, column in table.columns.items()} == {
        "text": ["NA", "x", "two\nlines\n\nyours", "Grüße"],
        "folder": ["", "old", "orders", "orders/late"],
        "file": ["a.txt", "old/c.txt", "orders/b.txt", "orders/late/a.txt"],
    }


def test_its_folders_are_labels(letters: Path, monkeypatch: pytest.MonkeyPatch):
    """By a bare name too, which could be one of the Hub; the folder by another name is no test set."""
    for i in range(6):
        (letters / "orders" / f"more{i}.txt").write_text(f"order {i}", encoding="utf-8")
    monkeypatch.chdir(letters.parent)
    assert looks_like_path("letters")
    (letters / "a.txt").unlink()
    split = load("letters", label="folder", test_share=0.3)
    assert split.train.label_names == ("old", "orders", "orders/late")
    with pytest.raises(DataError, match="training and test data are both"):
        load("letters", str(letters), label="folder")


def test_what_is_no_text_is_named(letters: Path):
    (letters / "orders" / "scan.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"1 of 5 files are empty, such as .*scan\.txt; remove"):
        read_file(str(letters))
    (letters / "orders" / "scan.txt").write_bytes("Stück".encode("cp1252"))
    with pytest.raises(DataError, match=r"scan\.txt: byte 2 is not UTF-8"):
        read_file(str(letters))
    (letters / "table.csv").write_text("text,label\n", encoding="utf-8")
    assert not looks_like_path(letters.name)
    with pytest.raises(DataError, match=r"is a folder, and .*table\.csv in it a table; name that file"):
        read_file(str(letters))
