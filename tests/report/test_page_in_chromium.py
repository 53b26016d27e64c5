"""The page in a real browser: drawn, silent, and content with what it brought along."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyrank.report import page
from polyrank.report.runs import find, grouped
from polyrank.report.statistics import compare
from tests.report.browser import Visit, visit
from tests.report.folders import write_run

FIGURES = {
    *("accuracy-rounds", "accuracy-bytes", "loss-rounds", "loss-bytes", "labels", "rank-groups", "dilution"),
    *("owners-weight", "energy", "energy-in-lowest", "effective-rank", "aggregation-error", "error-by-layer"),
    *("time", "memory"),
}
HOSTILE = "</script><script>console.error(1)</script><img src=http://127.0.0.1:9/x.png onerror=console.error(2)>"
METHODS = (
    *("replication", "zero_padding", "zero_padding_delta", "owner_mean", "hetlora", "flora", "flexlora", "raflora"),
    *("florist", "fedhl", "fedex", "fedsa"),
)


def one_round(folder: Path) -> None:
    write_run(folder, rounds=1)


def failed_client(folder: Path) -> None:
    """The update of round 2 is left out, and the run is not finished; names are as nasty as names can be."""
    labels = (HOSTILE, "b", "c")
    write_run(folder, rounds=3, planned=5, dropped={2: {"client-1": f"a norm of {HOSTILE}"}}, labels=labels)


def twelve_runs(folder: Path) -> None:
    """As many methods, one of them without diagnostics."""
    for i, method in enumerate(METHODS):
        write_run(folder / method, method, 0, 20, accuracy=0.4 + 0.02 * i, diagnosed=method != "fedsa")


def seeds(folder: Path) -> None:
    """Two methods with three seeds, one method's runs from an earlier version."""
    for seed in range(3):
        write_run(folder / f"replication-{seed}", seed=seed)
        write_run(folder / f"padding-{seed}", "zero_padding", seed, old=True)


def report(folder: Path) -> Path:
    groups = grouped(find([folder]))
    page.write(folder / "report.html", groups, compare(groups))
    return folder / "report.html"


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize(
    ("make", "missing"),
    [(one_round, set()), (failed_client, {"rank-groups", "memory"}), (twelve_runs, set()), (seeds, set())],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_figure_is_drawn_nothing_is_asked_for_and_nothing_complains(
    tmp_path: Path, make, missing: set[str], width: int
):
    make(tmp_path)
    file = report(tmp_path)
    visited = visit(file, width=width)
    assert visited.complaints == []
    assert [address for address in visited.requests if not address.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert [address for address in visited.seen["loaded"] if not address.startswith(("data:", "blob:"))] == []
    assert set(visited.seen["figures"]) == {f"figure-{name}" for name in FIGURES - missing}
    assert all(visited.seen["figures"].values()), visited.seen["figures"]
    assert visited.seen["needed"] <= width
    assert visited.seen["outside"] == 0


def test_a_failed_client_is_named_letter_by_letter(tmp_path: Path):
    failed_client(tmp_path)
    text = visit(report(tmp_path)).seen["text"]
    assert f"a norm of {HOSTILE}" in text
    assert "1 update of a client was left out" in text
    assert "is not finished: 3 of 5 rounds" in text


def test_a_legend_hides_a_method_in_every_figure(tmp_path: Path):
    seeds(tmp_path)
    shown = """[...document.querySelectorAll(".plot")].flatMap(plot => plot.data).filter(
        trace => trace.legendgroup === "replication" && trace.visible !== false).length"""
    click = """document.querySelector('.legend button[data-group="replication"]').click()"""
    before, _, hidden, _, again = _answers(visit(report(tmp_path), scripts=(shown, click, shown, click, shown)))
    assert before > 5
    assert hidden == 0
    assert again == before


def test_plots_become_narrower_for_paper_and_wide_again(tmp_path: Path):
    one_round(tmp_path)
    widest = """Math.max(...[...document.querySelectorAll("svg.main-svg")].map(svg => svg.clientWidth))"""
    to_paper, back = (f"dispatchEvent(new Event('{when}print'))" for when in ("before", "after"))
    visited = visit(report(tmp_path), scripts=(widest, to_paper, widest, back, widest))
    before, _, paper, _, after = _answers(visited)
    assert paper == 660
    assert before > 1000
    assert after == before


def _answers(visited: Visit) -> list[int]:
    assert visited.complaints == []
    return visited.answers
