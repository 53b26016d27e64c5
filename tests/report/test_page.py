from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from polyrank.core.errors import ReportError
from polyrank.report import page
from polyrank.report.runs import find, grouped
from polyrank.report.statistics import compare
from tests.report.folders import write_run


@pytest.fixture
def two(tmp_path: Path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "zero_padding", kept=0.1)
    return grouped(find([tmp_path]))


def written(groups) -> str:
    return page.html(Path("report.html"), groups, compare(groups))


def test_the_answer_comes_first(two):
    text = written(two)
    parts = ("<h1>", 'class="answer"', "<table", 'class="plot"', "Versions and machine</h2>")
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_the_script_is_in_the_page_once_and_nothing_is_loaded(two):
    text = written(two)
    assert text.count("plotly.js v") == 1
    assert "default-src &#x27;none&#x27;" in text
    tags = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["']?(http|//)""", tags)


def test_every_figure_has_a_heading_a_caption_and_its_data(two):
    text = written(two)
    figures = re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL)
    assert len(figures) == 15
    for figure in figures:
        assert "<h3>" in figure
        assert len(re.findall(r"<figcaption>(.+?)</figcaption>", figure)[0]) > 40
        data = re.findall(r'<script type="application/json" id="[a-z-]+-data">(.*?)</script>', figure)
        assert json.loads(data[0])["data"]


def test_names_from_files_are_text(tmp_path: Path):
    write_run(tmp_path / "a", options={"note": "<b>&"}, labels=("</script>", "<i>", "c"))
    text = written(grouped(find([tmp_path])))
    without_scripts = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert "<b>&" not in without_scripts
    assert "<i>" not in without_scripts
    assert "&lt;b&gt;&amp;" in text


def test_whole_configuration_and_what_differs(two):
    text = written(two)
    assert text.count("<details>") == 2
    assert text.count("policy = &quot;fixed&quot;") == 2
    differences = text[text.index("What differs between the runs") : text.index("Whole configuration of each run")]
    assert "aggregation.method" in differences
    assert "federation.rounds" not in differences


def test_a_page_that_cannot_be_written_is_one_clear_line(two, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot be written"):
        page.write(tmp_path / "file" / "report.html", two, compare(two))
