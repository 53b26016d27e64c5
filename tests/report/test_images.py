from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from polyrank.core.errors import ReportError
from polyrank.report import images
from polyrank.report.figure import Figure
from polyrank.report.runs import find, grouped
from polyrank.report.sections import Section
from polyrank.report.statistics import compare
from tests.report.browser import visit
from tests.report.folders import write_run


@pytest.fixture
def groups(tmp_path: Path):
    write_run(tmp_path / "a", rounds=2)
    write_run(tmp_path / "b", "zero_padding", rounds=2, kept=0.1)
    return grouped(find([tmp_path]))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch):
    """The first section alone: a browser takes a second per figure."""

    def first(*args) -> list[Section]:
        from polyrank.report.sections import sections

        return sections(*args)[:1]

    monkeypatch.setattr(images, "sections", first)


@pytest.mark.usefixtures("few")
def test_each_figure_is_a_png_and_an_svg_with_its_legend(groups, tmp_path: Path):
    """560 points wide at 3 pixels a point."""
    blank = tmp_path / "blank.html"
    blank.write_text("")
    visit(blank)  # skips without a browser
    written = images.write(tmp_path / "figures", groups, compare(groups))
    names = ("accuracy-rounds", "accuracy-bytes", "loss-rounds", "loss-bytes")
    assert {path.name for path in written} == {f"{name}.{form}" for name in names for form in ("png", "svg")}
    with Image.open(tmp_path / "figures" / "accuracy-rounds.png") as image:
        assert image.width == 3 * images.WIDTH
        assert len(image.convert("RGB").getcolors(2**24) or []) > 10
    drawing = ElementTree.parse(tmp_path / "figures" / "accuracy-rounds.svg")
    assert {"replication", "zero_padding", "round"} <= {
        text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")
    }


def test_a_lonely_figure_needs_no_legend(groups):
    from polyrank.report.sections import sections

    alone = {"replication": groups["replication"]}
    figure = sections(alone, compare(alone))[0].figures[0]
    assert isinstance(figure, Figure)
    assert not images._with_legend(figure, images.looks(alone)).layout.showlegend


def test_without_kaleido_it_says_what_to_install(groups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(ReportError, match=r"pip install 'polyrank\[figures\]'"):
        images.write(tmp_path / "figures", groups, compare(groups))


def test_without_a_browser_it_says_what_to_install(groups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    with pytest.raises(ReportError, match="apt install chromium"):
        images.write(tmp_path / "figures", groups, compare(groups))


def test_a_browser_that_does_not_start_is_one_clear_line(groups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(broken))
    with pytest.raises(ReportError, match="the browser failed"):
        images.write(tmp_path / "figures", groups, compare(groups))
