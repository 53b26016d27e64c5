"""Reports of models that write: round 0, kinds, samples and the unigram, on runs whose winners are known."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import polyrank
from polyrank import config as configuration
from polyrank.core.errors import RunFolderError
from polyrank.report import answer, curves, page, sections, tables, writing
from polyrank.report.figure import Groups
from polyrank.report.runs import find, grouped
from polyrank.report.statistics import compare
from tests import writers
from tests.report.browser import visit
from tests.report.written import SAMPLES, write

HOSTILE = (
    "</td></table><script>document.title='taken'</script><img src=http://127.0.0.1:9/x.png onerror=alert(1)>\u202e"
)


def of(folder: Path) -> Groups:
    return grouped(find([folder]))


def html(folder: Path) -> str:
    groups = of(folder)
    return page.html(folder / "report.html", groups, compare(groups))


def test_one_run_is_told_from_before_to_after(tmp_path: Path):
    """Losses of 4, 3 and 2 after 5 before: 3 at the end, exp(5) and exp(2) as perplexities."""
    groups = of(write(tmp_path / "run"))
    assert answer.sentence(groups, compare(groups)) == (
        "replication takes the test loss from 5.000 nats before the first round to 3.000 nats after 3 rounds (mean of "
        "the last 3 evaluated rounds; one seed), 3.3 nats for the first time in round 2; its perplexity goes from "
        "148.41 to 7.39 in the last round; the unigram of the training answers has 4.500 nats."
    )


def test_training_that_made_it_worse_is_told_the_same_way(tmp_path: Path):
    groups = of(write(tmp_path / "run", before=2.0, losses=(3.0, None), of="test"))
    said = answer.sentence(groups, compare(groups))
    assert said.startswith("replication takes the test loss from 2.000 nats before the first round to no finite number")
    assert "perplexity" not in said
    assert said.endswith("the unigram of the test answers has 4.500 nats.")


def test_the_lower_loss_wins(tmp_path: Path):
    """With three seeds each, whichever comes first and whichever is the reference; targets are reached from above."""
    for seed, shift in enumerate((0.0, 0.01, -0.01)):
        write(tmp_path / f"a-{seed}", "replication", seed, losses=(4.0, 3.0 + shift))
        write(tmp_path / f"b-{seed}", "zero_padding", seed, losses=(3.0, 2.0 - shift))
    groups = of(tmp_path)
    for reference in ("replication", "zero_padding"):
        found = compare(groups, reference=reference, target=2.5)
        said = answer.sentence(groups, found)
        assert said.startswith("zero_padding is ahead of replication by 1.000 nats of test loss at the end (2.500 nats")
        assert said.endswith(
            "; 2.5 nats is reached in round 2, and never by replication; before the first round it was 5.000 nats."
        )
        assert found.row("zero_padding").rounds_to_target == (2, 2, 2)
        assert found.row("replication").rounds_to_target == (None,) * 3
        assert found.row("replication").before == 5.0
    assert compare(groups).target == pytest.approx(2.75)


def test_round_0_is_no_round_of_a_comparison(tmp_path: Path):
    """Nor of an end, an area or a target: the base may be better than all that follows."""
    groups = of(write(tmp_path / "run", before=1.0, losses=(4.0, 2.0)))
    (row,) = compare(groups, target=1.5).rows
    assert (row.end.mean, row.area.mean, row.rounds_to_target) == (3.0, 3.0, (None,))


def test_curves_begin_with_round_0(tmp_path: Path):
    """At no bytes; a perplexity that spans more than a tenth has a logarithmic axis, a loss never."""
    groups = of(write(tmp_path / "run"))
    learning = sections.sections(groups, compare(groups))[0]
    assert learning.title == "Loss and perplexity"
    by_name = {figure.name: figure.plot for figure in learning.figures}  # type: ignore[union-attr]
    assert curves.curve(groups["replication"], curves.by_round("test/loss")).mean == (5.0, 4.0, 3.0, 2.0)
    assert by_name["loss-rounds"].data[-1].x == (0, 1, 2, 3)
    sent = by_name["perplexity-bytes"].data[-1]
    assert (sent.x[0], sent.y[0]) == (0, pytest.approx(math.exp(5)))
    assert sent.x[1] == pytest.approx((2000 + 10000) / 2**20)
    assert {name: plot.layout.yaxis.type for name, plot in by_name.items()} == {
        **dict.fromkeys(("loss-rounds", "loss-bytes"), "linear"),
        **dict.fromkeys(("perplexity-rounds", "perplexity-bytes"), "log"),
    }
    notes = {note.text for note in by_name["loss-rounds"].layout.annotations}
    assert "unigram of the training answers 4.500 nats" in notes


def test_kinds_before_and_after(tmp_path: Path):
    """The worst at the end first; one that became worse is named."""
    kinds = {"poems": (5.0, 2.0), "recipes": (4.0, 4.5), "a <b>": (5.0, 3.0)}
    groups = of(write(tmp_path / "run", kinds=kinds))
    text = writing.kinds_table(groups, compare(groups))
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', text)
    assert [kind for kind, _ in rows] == ["recipes", "a &lt;b&gt;", "poems"]
    assert re.findall("<td>(.*?)</td>", rows[0][1]) == ["4.000", "4.500", "+0.500", "54.60", "90.02"]
    assert re.findall("<td>(.*?)</td>", rows[2][1]) == ["5.000", "2.000", "-3.000", "148.41", "7.39"]
    assert "replication: the worst is recipes with 4.500 nats; worse than before: recipes." in text


def test_kinds_of_several_methods_stand_side_by_side(tmp_path: Path):
    """Means over the seeds; a kind that only one of them tested is not taken for 0."""
    write(tmp_path / "a", "replication", 0, kinds={"poems": (5.0, 2.0), "recipes": (5.0, 3.0)})
    write(tmp_path / "b", "replication", 1, kinds={"poems": (5.0, 3.0)})
    write(tmp_path / "c", "zero_padding", 0, kinds={"poems": (5.0, 1.0), "recipes": (5.0, 1.5)})
    groups = of(tmp_path)
    found = compare(groups)
    text = writing.kinds_table(groups, found)
    assert re.findall('<th scope="col">(.*?)</th>', text) == [
        *("kind", "loss before", "replication, after", "zero_padding, after")
    ]
    rows = dict(re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', text))
    assert re.findall("<td>(.*?)</td>", rows["poems"]) == ["5.000", "2.500", "1.000"]
    assert re.findall("<td>(.*?)</td>", rows["recipes"]) == ["5.000", "3.000", "1.500"]
    assert "zero_padding: the worst is recipes with 1.500 nats; none is worse than before." in text


def test_exports_have_what_was_before(tmp_path: Path):
    write(tmp_path / "run")
    groups = of(tmp_path)
    found = compare(groups)
    told = json.loads(tables.json_text(found))
    assert (told["metric"], told["better"]) == ("loss", "lower")
    assert told["methods"][0]["before"] == 5.0
    assert told["methods"][0]["kinds"]["poems"] == {"before": 4.0, "after": pytest.approx(1.6)}
    head, line = tables.as_csv(found).splitlines()
    assert dict(zip(head.split(","), line.split(","), strict=True))["before"] == "5.0"
    assert tables.before(found) == "Before the first round the test loss was 5.000 nats."


class Tags(HTMLParser):
    """Elements of a page, and what they ask of somebody else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.asked += [f"{tag} {name}" for name, _ in attrs if name in ("src", "srcset", "onerror", "action")]


def test_whatever_was_written_is_text(tmp_path: Path):
    """Prompts, answers and kinds come from others; half a character does not keep the page from being written."""
    plain, taken = tmp_path / "plain", tmp_path / "taken"
    write(plain / "run")
    samples = [{"prompt": HOSTILE, "reference": "a\n  b\ud800", "before": HOSTILE, "after": "x" * 5000}]
    write(taken / "run", kinds={HOSTILE: (5.0, 2.0)}, samples=samples)
    text = html(taken)
    assert Tags(text).asked == []
    assert Tags(text).scripts == Tags(html(plain)).scripts
    assert "document.title=&#x27;taken&#x27;" in text
    assert "(3000 more characters)" in text
    groups = of(taken)
    page.write(taken / "report.html", groups, compare(groups))
    assert (taken / "report.html").stat().st_size > 10**6


@pytest.mark.parametrize(
    "samples", ["none", "[]", '{"samples": 3}', '{"samples": ["x"]}', '{"samples": [{"prompt": 1}]}']
)
def test_samples_that_are_none(tmp_path: Path, samples: str):
    """What is damaged is named in one line; what is missing is not shown."""
    folder = write(tmp_path / "run")
    (folder / "samples.json").write_text(samples, encoding="utf-8")
    if samples.endswith("1}]}"):
        assert "What the model writes" in html(tmp_path)
        return
    with pytest.raises(RunFolderError, match=r"samples\.json "):
        of(tmp_path)


def test_a_run_that_is_not_finished_has_written_once(tmp_path: Path):
    before = [{key: text for key, text in SAMPLES[0].items() if key != "after"}]
    write(tmp_path / "run", samples=before, planned=9)
    assert "nothing yet: the run is not finished" in html(tmp_path)
    (tmp_path / "run" / "samples.json").unlink()
    assert "What the model writes" not in html(tmp_path)


def test_rows_that_are_no_examples_are_counted(tmp_path: Path):
    write(tmp_path / "run")
    text = html(tmp_path)
    assert "<td>4</td><td>2</td><td>client-1: 3</td>" in text


def test_the_page_in_a_browser(tmp_path: Path):
    write(tmp_path / "a")
    write(tmp_path / "b", "zero_padding", losses=(4.0, 2.0, 1.0), samples=[{**SAMPLES[0], "after": HOSTILE}])
    groups = of(tmp_path)
    page.write(tmp_path / "report.html", groups, compare(groups))
    seen = visit(tmp_path / "report.html", width=390)
    assert seen.complaints == []
    address = (tmp_path / "report.html").as_uri()
    assert [one for one in seen.requests if not one.startswith(("data:", "blob:"))] == [address]
    assert all(seen.seen["figures"].values())
    assert {"figure-loss-rounds", "figure-perplexity-bytes"} <= set(seen.seen["figures"])
    assert seen.seen["needed"] <= 390
    assert "after the last round (zero_padding)" in seen.seen["text"]


def test_a_real_run_end_to_end(tmp_path: Path):
    """A tiny Llama on pairs of two kinds: what the folder holds is what the page says."""
    study = writers.study(tmp_path)
    summary = polyrank.run(configuration.load(study / "study.toml"), tmp_path / "run")
    groups = of(tmp_path / "run")
    (run,) = groups["replication"]
    assert run.before(run.task.primary) == summary["untrained/loss"]
    said = answer.sentence(groups, compare(groups))
    assert f"from {summary['untrained/loss']:.3f} nats before the first round" in said
    assert f"to {summary['test/perplexity']:.2f} in the last round" in said
    assert f"the unigram of the training answers has {summary['constant/loss']:.3f} nats" in said
    text = html(tmp_path / "run")
    for kind in ("what", "say"):
        assert f"{summary['untrained/loss_by_kind'][kind]:.3f}" in text
        assert f"{summary['test/loss_by_kind'][kind]:.3f}" in text
    assert text.count("before the first round</th>") == 2  # two samples
    assert len(run.samples) == 2
