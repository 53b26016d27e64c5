"""Texts of the standard library are read once for each interpreter; what is kept never differs from what is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from polyrank.core import cache
from polyrank.quickstart import stdlib_docs, stdlib_signatures
from polyrank.quickstart.kept import kept


@dataclass(frozen=True)
class Text:
    """A row."""

    text: str


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files of a library, beside a cache folder."""
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "cache"))
    paths = [tmp_path / "a.py", tmp_path / "b.py"]
    for path in paths:
        path.write_text(path.name, encoding="utf-8")
    return paths


class Reader:
    """Reads the files, and counts how often."""

    def __init__(self, sources: list[Path]) -> None:
        self.sources, self.times = sources, 0

    def __call__(self) -> list[Text]:
        self.times += 1
        return [Text(path.read_text(encoding="utf-8") + " \ud800é") for path in self.sources]

    def rows(self) -> tuple[Text, ...]:
        return kept("some-texts", Text, self.sources, [__file__], self)


def test_read_once(sources: list[Path]):
    """Also texts that are not Unicode."""
    reader = Reader(sources)
    first = reader.rows()
    assert first == reader.rows() == tuple(Reader(sources)())
    assert reader.times == 1


@pytest.mark.parametrize("how", ["longer", "newer", "one more", "renamed"])
def test_a_library_that_changed_is_read_anew(sources: list[Path], tmp_path: Path, how: str):
    reader = Reader(sources)
    reader.rows()
    if how == "longer":
        sources[0].write_text("longer than it was", encoding="utf-8")
    elif how == "newer":
        sources[0].write_text("c.py", encoding="utf-8")
    elif how == "one more":
        sources.append(sources[0])
    else:
        sources[0] = sources[0].rename(tmp_path / "c.py")
    assert reader.rows() == tuple(Reader(sources)())
    assert reader.times == 2


@pytest.mark.parametrize("how", ["cut", "edited", "empty", "other values", "a list"])
def test_a_damaged_file_is_made_anew(sources: list[Path], tmp_path: Path, how: str):
    reader = Reader(sources)
    first = reader.rows()
    (file,) = (tmp_path / "cache" / "texts").iterdir()
    whole = file.read_text(encoding="utf-8")
    changed = {
        "cut": whole[:-9],
        "edited": whole.replace("a.py", "x.py"),
        "empty": "",
        "other values": json.dumps({"rows": 3}),
        "a list": "[]",
    }
    file.write_text(changed[how], encoding="utf-8")
    assert reader.rows() == first
    assert reader.times == 2
    assert file.read_text(encoding="utf-8") == whole


def test_without_a_folder_it_is_read_each_time(sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor is it an error where the folder cannot be made."""
    reader = Reader(sources)
    for value, times in (("", 2), (str(sources[0]), 4)):
        monkeypatch.setenv(cache.CACHE, value)
        assert reader.rows() == reader.rows()
        assert reader.times == times
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("module", [stdlib_docs, stdlib_signatures])
def test_embedded_sets_are_kept_as_they_were_read(module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = module.split()
    monkeypatch.setenv(cache.CACHE, str(tmp_path))
    reading = module._documents if module is stdlib_docs else module._pairs
    for _ in range(2):  # read and kept, then taken from there
        reading.cache_clear()
        assert module.split() == made
    assert len(list((tmp_path / "texts").iterdir())) == 1
