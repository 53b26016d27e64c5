from __future__ import annotations

import os
from pathlib import Path

import pytest

from polyrank.report.live import reading
from polyrank.report.live.reading import Search, Watched
from tests.report.folders import write_run


def names(search: Search) -> list[str]:
    return [one.name for one in search.watched.values()]


def test_a_run_that_is_to_come_is_there_before_it_begins(tmp_path: Path):
    search = Search([tmp_path / "a"])
    assert search.look()
    (one,) = search.watched.values()
    assert (one.run, one.begun, one.fault) == (None, False, "")
    write_run(tmp_path / "a", rounds=2, planned=4)
    assert search.look()
    assert one.run is not None
    assert len(one.run.lines) == 2
    assert not one.ended


def test_a_folder_is_read_again_only_where_a_file_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[Path] = []
    original = reading.read
    monkeypatch.setattr(reading, "read", lambda path: read.append(path) or original(path))
    one = Watched(write_run(tmp_path / "a", rounds=2), "a")
    assert [one.look(), one.look(), one.look()] == [True, False, False]
    assert len(read) == 1
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, ')
    assert one.look()
    assert len(read) == 2
    assert one.fault == ""
    assert one.run is not None
    assert len(one.run.lines) == 2


def test_a_folder_that_holds_runs_gets_more_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "SHARE", 0)
    write_run(tmp_path / "study" / "b")
    search = Search([tmp_path / "study", tmp_path / "study" / "b"])
    search.look()
    assert names(search) == ["study/b"]
    assert search.holds
    write_run(tmp_path / "study" / "deep" / "a", "zero_padding")
    assert search.look()
    assert names(search) == ["study/b", "study/deep/a"]


def test_what_was_read_before_stays_when_a_line_is_broken(tmp_path: Path):
    one = Watched(write_run(tmp_path / "a", rounds=3), "a")
    one.look()
    metrics = tmp_path / "a" / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join([lines[0], "nonsense", lines[2]]) + "\n")
    assert one.look()
    assert "line 2: expected what was measured in round 2" in one.fault
    assert one.run is not None
    assert not one.ended
    metrics.write_text("\n".join(lines) + "\n")
    assert one.look()
    assert one.fault == ""
    assert one.ended


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "run.json", "config.toml"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str):
    folder = write_run(tmp_path / "a")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    one = Watched(folder, "a")
    one.look()
    assert one.run is None or not one.run.lines or one.run.summary is None


def test_a_file_too_large_for_a_page_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "LARGEST", 100)
    one = Watched(write_run(tmp_path / "a"), "a")
    one.look()
    assert "takes files up to 100 B" in one.fault


def test_a_link_that_leads_to_itself_is_no_run(tmp_path: Path):
    (tmp_path / "a").symlink_to(tmp_path / "a")
    search = Search([tmp_path / "a"])
    search.look()
    assert not any(one.begun for one in search.watched.values())


def test_nothing_is_read_with_torch():
    import subprocess
    import sys

    code = "import sys, polyrank.report.live.board; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
