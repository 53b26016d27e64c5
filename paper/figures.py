"""``python -m paper.figures``: the figures of RESULTS.md and FINDINGS.md, drawn from ``paper/results``."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from paper.tables import RESULTS, by_entry, entry, gaps, studies
from polyrank.report.curves import by_round
from polyrank.report.curves import figure as curve_figure
from polyrank.report.figure import COLOURS, GREY, Figure, Look, blank, looks
from polyrank.report.images import draw
from polyrank.report.runs import grouped
from polyrank.report.statistics import area

FOLDER = Path(__file__).parent / "figures"
README = Path(__file__).parents[1] / "docs" / "images"
DATA = {"ag_news": "AG News", "dbpedia": "DBpedia", "quickstart": "the quickstart"}
DOTS = tuple((what, "zero_padding") for what in ("replication", "tempered", "shrinkage", "validated"))
"""What is drawn against what, where one setting at a time is changed."""


def curves(results: Path) -> Iterator[tuple[Figure, dict[str, Look]]]:
    """Accuracy against rounds for each data set."""
    for name, runs in {**studies("curves", results), **studies("quickstart", results)}.items():
        groups = grouped(runs)
        look = looks(groups)
        made = curve_figure(
            groups,
            look,
            by_round("test/accuracy"),
            **{"name": _file(name), "title": DATA[name], "caption": "", "absent": ""},
            **{"y": f"test accuracy, {DATA[name]}", "share": True},
        )
        assert isinstance(made, Figure)
        yield made, look


def _file(data: str) -> str:
    return data if data == "quickstart" else f"curves-{data.replace('_', '-')}"


def when(results: Path, data: str) -> Figure | None:
    """A dot per seed and a bar at their mean, for each setting: points of the mean accuracy over all rounds."""
    import plotly.graph_objects as go

    found = studies(f"when_{data}", results)
    if not found:
        return None
    names = list(found)
    look = looks(what for what, _ in DOTS)
    plot = blank(height=60 + 44 * len(names))
    for k, (what, against) in enumerate(DOTS):
        shift = 0.2 * ((len(DOTS) - 1) / 2 - k)
        x, y, means, places = [], [], [], []
        for i, name in enumerate(names):
            values = [100 * gap for gap in gaps(by_entry(found[name]), what, against, area).values()]
            x += values
            y += [len(names) - i + shift] * len(values)
            if values:
                means.append(statistics.fmean(values))
                places.append(len(names) - i + shift)
        own = look[what]
        dots = {"color": own.faint(0.45), "symbol": "circle", "size": 7}
        bars = {"color": own.colour, "symbol": "line-ns", "size": 13, "line": {"width": 3, "color": own.colour}}
        plot.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=dots, showlegend=False))
        plot.add_trace(go.Scatter(x=means, y=places, mode="markers", marker=bars, name=what, showlegend=True))
    plot.add_vline(x=0, line={"color": GREY, "width": 1})
    plot.update_yaxes(
        tickvals=[len(names) - i for i in range(len(names))], ticktext=names, range=[0.4, len(names) + 0.6]
    )
    plot.update_xaxes(title_text=f"points above zero padding, mean over all rounds, {DATA[data]}")
    keys = {what: look[what].colour for what, _ in DOTS}
    return Figure(f"when-{data.replace('_', '-')}", "", "", plot, keys=keys, wide=True)


def gamma(results: Path) -> Figure:
    """Mean accuracy over all rounds against gamma; the line is `shrinkage`, which has none."""
    import plotly.graph_objects as go

    plot = blank()
    keys: dict[str, str] = {}
    for colour, (name, runs) in zip(COLOURS, studies("gamma", results).items(), strict=False):
        points: dict[float, list[float]] = {}
        for run in runs:
            if entry(run).startswith("tempered"):
                points.setdefault(float(run.config.aggregation.options["gamma"]), []).append(100 * area(run))
        x = sorted(points)
        plot.add_trace(
            go.Scatter(
                x=x,
                y=[statistics.fmean(points[value]) for value in x],
                error_y={"array": [_deviation(points[value]) for value in x], "thickness": 1},
                line={"color": colour},
                name=f"tempered, {DATA[name]}",
            )
        )
        keys[f"tempered, {DATA[name]}"] = colour
        fixed = [100 * area(run) for run in runs if entry(run) == "shrinkage"]
        if fixed:
            plot.add_hline(y=statistics.fmean(fixed), line={"color": colour, "dash": "dot", "width": 1.5})
    plot.update_xaxes(title_text="gamma: 0 is owner mean, 1 zero padding of changes")
    plot.update_yaxes(title_text="mean accuracy over all rounds, %")
    return Figure("gamma", "", "", plot, keys=keys)


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Draw all figures as SVG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the figures")
    chosen = parser.parse_args(arguments)
    written: list[Path] = []
    for figure, look in curves(chosen.results):
        written += draw(README if figure.name == "quickstart" else chosen.out, [figure], look, ["svg"])
    others = [when(chosen.results, "ag_news"), when(chosen.results, "quickstart"), gamma(chosen.results)]
    return written + draw(chosen.out, [figure for figure in others if figure], {}, ["svg"])


if __name__ == "__main__":
    for path in main():
        print(path)
