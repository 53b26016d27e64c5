from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from polyrank.report import images
from tests.cli.conftest import Polyrank
from tests.report.folders import write_run


@pytest.fixture
def runs(polyrank: Polyrank) -> Path:  # noqa: ARG001  # it changes to an empty folder
    """Two runs in the folder that the command runs in."""
    write_run(Path("study/a"))
    write_run(Path("study/b"), "zero_padding", kept=0.1, accuracy=0.5)
    return Path("study")


def test_the_answer_and_the_page(polyrank: Polyrank, runs: Path):
    result = polyrank("report", runs)
    assert result.code == 0
    assert result.err == ""
    answer, where = result.out.splitlines()
    assert "points of test accuracy above zero_padding" in answer
    assert where == "page: study/report.html"
    assert answer in (runs / "report.html").read_text(encoding="utf-8")


def test_file_target_and_reference_can_be_chosen(polyrank: Polyrank, runs: Path):
    result = polyrank(
        "report", "study/a", "study/b", "-o", "pages/x.html", "--target", "0.4", "--reference", "zero_padding"
    )
    assert result.code == 0
    assert "; 40 % is reached in round 3, against 4." in result.out
    assert "end, against zero_padding" in Path("pages/x.html").read_text(encoding="utf-8")
    assert not (runs / "report.html").exists()


def test_a_run_that_polyrank_made(polyrank: Polyrank, own_things: Path):
    everybody = "federation.participation=1.0"
    assert polyrank("run", own_things / "study.toml", "--set", everybody, "--out", "made").code == 0
    assert polyrank("report", "made").code == 0
    text = Path("made/report.html").read_text(encoding="utf-8")
    assert text.count('class="plot"') == 15
    assert "No figure" not in text


def test_an_unfinished_run_is_reported_as_such(polyrank: Polyrank, runs: Path):
    write_run(Path("study/c"), "flora", rounds=2, planned=9)
    assert polyrank("report", runs).code == 0
    assert "flora, seed 0, is not finished: 2 of 9 rounds." in (runs / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere",), "nowhere is no run folder and holds none"),
        (("empty",), "empty is no run folder and holds none"),
        (("started",), "no run in started has an evaluated round yet"),
        (("study", "twice"), "are the same run with the same seed"),
        (("study", "--reference", "zero_paddin"), "did you mean 'zero_padding'?"),
        (("study", "--target", "50"), "expected an accuracy between 0 and 1"),
        (("study", "-o", "study"), "study cannot be written"),
        ((), "Missing argument"),
    ],
)
def test_what_a_user_did_is_one_clear_line(polyrank: Polyrank, arguments: tuple[str, ...], says: str):
    Path("empty").mkdir()
    write_run(Path("started"), rounds=0, planned=3)
    shutil.copytree("study/a", "twice")
    result = polyrank("report", *arguments)
    assert result.code == 2
    assert says in result.err
    assert "Traceback" not in result.err


def test_figures_go_beside_the_page(polyrank: Polyrank, runs: Path, monkeypatch: pytest.MonkeyPatch):
    folders: list[Path] = []
    monkeypatch.setattr(images, "write", lambda folder, *_: folders.append(folder) or [folder / "a.png"])
    result = polyrank("report", runs, "-o", "pages/x.html", "--figures")
    assert result.code == 0
    assert folders == [Path("pages/figures")]
    assert "figures: 1 files in pages/figures" in result.out


def test_help_imports_no_plotly():
    code = "import polyrank.cli, sys; print([name for name in ('plotly', 'scipy', 'torch') if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
