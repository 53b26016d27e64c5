"""What a run shows under a notebook's cell."""

from __future__ import annotations

import math
import re
import sys
import types
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import IPython.display
import pytest

from polyrank import run
from polyrank.config import Config
from polyrank.runs import notebook
from polyrank.runs.listener import Listener
from polyrank.runs.notebook import EDGE, HEIGHT, WIDTH, Live, in_notebook


class Shown:
    """What was displayed, in the place of a notebook."""

    def __init__(self) -> None:
        self.contents: list[dict[str, str]] = []

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> Shown:
        assert raw
        assert display_id
        self.contents.append(content)
        return self

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.contents.append(content)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    made = Shown()
    monkeypatch.setattr(IPython.display, "display", made.display)
    return made


def test_a_run_in_a_notebook_shows_itself(
    configure: Callable[..., Config], tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
):
    """Three rounds: a line for each under the titles, and a curve of three points; other listeners take its place."""
    monkeypatch.setattr("polyrank.runs.runner.in_notebook", lambda: True)
    run(configure('aggregation.method="owner_mean"'), tmp_path / "run")
    first, last = shown.contents[0], shown.contents[-1]
    assert "owner_mean on " in first["text/plain"]
    assert "3 rounds, 6 clients; begins" in first["text/plain"]
    assert "; done; best test accuracy " in last["text/plain"]
    assert [line.split()[0] for line in last["text/plain"].splitlines()[1:]] == ["round", "1", "2", "3"]
    assert last["text/html"].count("<tr>") == 4
    (points,) = re.findall(r'points="([^"]*)"', last["text/html"])
    assert len(points.split()) == 3
    assert any("training: " in content["text/plain"] for content in shown.contents)
    HTMLParser().feed(last["text/html"])
    before = len(shown.contents)
    run(configure(), tmp_path / "quiet", listener=Listener())
    assert len(shown.contents) == before


def test_elsewhere_nothing_is_shown(configure: Callable[..., Config], tmp_path: Path, shown: Shown):
    assert not in_notebook()
    run(configure("federation.rounds=1"), tmp_path / "run")
    assert shown.contents == []


KERNEL = types.SimpleNamespace(kernel=1)


@pytest.mark.parametrize(("shell", "expected"), [(KERNEL, True), (object(), False), (None, False)])
def test_only_a_kernel_is_a_notebook(monkeypatch: pytest.MonkeyPatch, shell: object, expected: bool):
    """IPython on a terminal has a shell without a kernel; a plain process that imported it has none."""
    fake = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", fake)  # type: ignore[arg-type]  # all that is asked of it
    assert in_notebook() is expected


def begun(shown: Shown, metrics: list[dict[str, Any]], rounds: int) -> str:
    """The HTML after these lines."""
    from polyrank.tasks import TASKS

    live = Live()
    live._metrics, live._rounds, live._handle = TASKS["classification"].metrics[:1], rounds, shown
    for line in metrics:
        live.on_round(line)
    return shown.contents[-1]["text/html"]


def test_the_curve_is_where_the_numbers_are(shown: Shown):
    """Rounds 1, 3 and 5 of five at 0.2, 0.6 and 0.4: left, middle and right; bottom, top and half way."""
    html = begun(shown, [{"round": r, "test/accuracy": v} for r, v in ((1, 0.2), (3, 0.6), (5, 0.4))], 5)
    svg = ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])
    (line,) = svg.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    bottom, top = HEIGHT - EDGE, 2 * EDGE
    assert points == [(EDGE, bottom), (WIDTH / 2, top), (WIDTH - EDGE, (bottom + top) / 2)]
    assert "accuracy 20.0 % to 60.0 %, rounds 1 to 5" in "".join(svg.itertext())


@pytest.mark.parametrize("values", [[None, 0.5], [0.5], [None, None]])
def test_without_two_numbers_there_is_no_curve(shown: Shown, values: list[float | None]):
    html = begun(shown, [{"round": i + 1, "test/accuracy": value} for i, value in enumerate(values)], 5)
    assert "<svg" not in html
    assert html.count("<tr>") == 1 + len(values)


def test_equal_numbers_are_a_flat_line(shown: Shown):
    html = begun(shown, [{"round": i, "test/accuracy": 0.5} for i in (1, 2)], 2)
    heights = {point.split(",")[1] for point in re.findall(r'points="([^"]*)"', html)[0].split()}
    assert len(heights) == 1
    assert math.isfinite(float(heights.pop()))


def test_names_are_text_and_no_html(shown: Shown):
    live = Live()
    live._title, live._handle = "<script>alert(1)</script>", shown
    live._show()
    assert "<script>" not in shown.contents[-1]["text/html"]
    assert notebook.STAGES["training"] == "training"
