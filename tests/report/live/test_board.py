from __future__ import annotations

from pathlib import Path

import pytest

from polyrank.report import page
from polyrank.report.live import board
from polyrank.report.live.board import Board
from tests.report.folders import write_run

HOSTILE = "<img src=x onerror=alert(1)>"


def test_parts_are_sent_to_those_who_do_not_have_them(tmp_path: Path):
    write_run(tmp_path / "a", rounds=2, planned=4)
    shown = Board([tmp_path / "a"])
    first = shown.now("")
    assert 'class="plot"' in first["main"]
    assert "is not finished: 2 of 4 rounds" in first["about"]
    again = shown.now(first["version"])
    assert again.keys() == {"version", "wait", "ended", "now"}
    assert again["version"] == first["version"]
    assert not again["ended"]
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[1].replace('"round": 2', '"round": 3'))
        file.write("\n")
    grown = shown.now(first["version"])
    assert "round 3 of 4" in grown["now"]
    assert "is not finished: 3 of 4 rounds" in grown["about"]


def test_before_the_first_round_there_are_cards_and_no_figures(tmp_path: Path):
    found = Board([tmp_path / "to-come"]).now("")
    assert "not begun yet" in found["now"]
    assert "Figures appear after the first one" in found["about"]
    assert found["main"] == ""
    assert not found["ended"]


def test_it_ends_with_the_last_run(tmp_path: Path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "zero_padding", rounds=2, planned=4)
    assert Board([tmp_path / "a"]).now("")["ended"]
    assert not Board([tmp_path / "a", tmp_path / "b"]).now("")["ended"]


def test_a_folder_that_holds_runs_may_get_another_until_it_was_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_run(tmp_path / "study" / "a")
    shown = Board([tmp_path / "study"])
    assert not shown.now("")["ended"]
    monkeypatch.setattr(board, "SETTLED", -1.0)
    assert shown.now("")["ended"]


def test_runs_that_cannot_stand_side_by_side_are_named(tmp_path: Path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "zero_padding", digests={"test texts": "others"})
    write_run(tmp_path / "c", "flora")
    found = Board([tmp_path / name for name in "abc"]).now("")
    assert "b is not in the figures" in found["about"]
    assert "2 runs of replication and flora" in found["about"]
    assert found["now"].count("<li") == 3


def test_names_are_text(tmp_path: Path):
    write_run(tmp_path / HOSTILE, options={"note": HOSTILE}, labels=(HOSTILE, "b", "c"))
    text = Board([tmp_path / HOSTILE]).page("nonce")
    assert HOSTILE not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert text.count('<script nonce="nonce">') == 2
    assert "unsafe-inline" not in text[: text.index("style-src")]


def test_a_fault_in_the_figures_leaves_the_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> str:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(page, "body", broken)
    write_run(tmp_path / "a", rounds=2, planned=4)
    found = Board([tmp_path / "a"]).now("")
    assert "round 2 of 4" in found["now"]
    assert "No figures: ZeroDivisionError: by nothing" in found["about"]
