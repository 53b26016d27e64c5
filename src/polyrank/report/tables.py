"""A comparison as JSON, as CSV, and as rows of text for a screen."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from polyrank.report.statistics import CONFIDENCE, LAST, LEVEL, Comparison, Difference, Row, Spread
from polyrank.runs.folder import plain
from polyrank.tasks import TASKS, Metric

_PARTS = ("mean", "low", "high", "p", "p_holm")
"""Of a difference, as CSV has them."""


def brackets(metric: Metric) -> str:
    """What brackets and stars mean; the correction is made in each of the two columns."""
    unit = f", in {'points' if metric.share else metric.unit}" if metric.unit else ""
    return (
        f"{100 * CONFIDENCE:g} % confidence interval of the paired difference by itself{unit}; *: a difference at the "
        f"level of {100 * LEVEL:g} % after Holm's correction for the number of methods"
    )


def direction(metric: Metric) -> str:
    """Which way is better, where a reader would not think so."""
    return "" if metric.better == "higher" else f"{metric.title}: less is better; "


def note(metric: Metric) -> str:
    """What the columns of `cells` mean."""
    return (
        f"{direction(metric)}end: mean of the last {LAST} evaluated rounds; ±: standard deviation over the seeds; in "
        f"brackets: {brackets(metric)}"
    )


def as_json(comparison: Comparison) -> dict[str, Any]:  # Any: plain JSON values
    """Everything, numbers in full; null stands for one that is not finite. Of a task but the first, its metric too."""
    metric = comparison.metric
    of = {} if comparison.task == TASKS.build(next(iter(TASKS))) else {"metric": metric.name, "better": metric.better}
    return {
        **of,
        "target": comparison.target,
        "reference": comparison.reference,
        "end_rounds": LAST,
        "correction": "Holm",
        "level": LEVEL,
        "methods": [plain(asdict(row)) for row in comparison.rows],
    }


def json_text(comparison: Comparison) -> str:
    """`as_json` as a file holds it."""
    return json.dumps(as_json(comparison), indent=1) + "\n"


def as_csv(comparison: Comparison) -> str:
    """One line per method; several seeds' numbers in one cell, separated by spaces, a dash where none was reached."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            *("method", "seeds", "target", "rounds_to_target", "bytes_to_target", "end_mean", "end_deviation"),
            *("area_mean", "area_deviation", "bytes_per_round", "reference"),
            *(f"{of}_difference_{part}" for of in ("end", "area") for part in _PARTS),
        ]
    )
    for row in comparison.rows:
        differences = [
            getattr(difference, part) if difference else None
            for difference in (row.end_difference, row.area_difference)
            for part in _PARTS
        ]
        spreads = (row.end.mean, row.end.deviation, row.area.mean, row.area.deviation)
        lists = (_listed(row.rounds_to_target, " "), _listed(row.bytes_to_target, " "))
        writer.writerow(
            [
                *(row.name, _listed(row.seeds, " "), comparison.target, *lists, *spreads),
                *(row.bytes_per_round, comparison.reference, *differences),
            ]
        )
    return file.getvalue()


def headings(comparison: Comparison) -> tuple[str, ...]:
    """Headings of the columns of `cells`."""
    metric = comparison.metric
    target = metric.level(comparison.target)
    return (
        "method",
        f"rounds to {target}",
        f"MiB to {target}",
        f"{metric.title} at the end",
        "mean over all rounds",
        "MiB per round",
        f"end, against {comparison.reference}",
        f"mean, against {comparison.reference}",
    )


def cells(row: Row, metric: Metric) -> tuple[str, ...]:
    """One method's line: the metric, MiB, a number per seed where seeds are not averaged."""
    reached = [None if sent is None else f"{sent / 2**20:.1f}" for sent in row.bytes_to_target]
    return (
        row.name,
        _listed(row.rounds_to_target, ", "),
        _listed(reached, ", "),
        spread_text(row.end, metric),
        spread_text(row.area, metric),
        f"{row.bytes_per_round / 2**20:.2f}",
        difference_text(row.end_difference, metric),
        difference_text(row.area_difference, metric),
    )


def spread_text(spread: Spread, metric: Metric) -> str:
    """Mean and standard deviation.

    >>> wins = Metric("won", "wins", "higher", "%", 1)
    >>> spread_text(Spread(0.5678, 0.0123), wins), spread_text(Spread(0.5, None), wins)
    ('56.8 ± 1.2 %', '50.0 %')
    >>> spread_text(Spread(1.2345, 0.0123), Metric("loss", "loss", "lower", "nats"))
    '1.234 ± 0.012'
    """
    if spread.deviation is None:
        return metric.number(spread.mean)
    return f"{metric.bare(spread.mean)} ± {metric.bare(spread.deviation)}{' %' if metric.share else ''}"


def difference_text(difference: Difference | None, metric: Metric) -> str:
    """Value minus the reference's, with its interval, where there is one; a star where it is no chance by Holm.

    >>> wins = Metric("won", "wins", "higher", "%", 1)
    >>> difference_text(Difference(-0.031, -0.052, -0.010, 0.02, 3, p_holm=0.04), wins), difference_text(None, wins)
    ('-3.1 (-5.2 to -1.0) *', '-')
    >>> difference_text(Difference(-0.031, -0.052, -0.010, 0.02, 3, p_holm=0.36), wins)
    '-3.1 (-5.2 to -1.0)'
    """
    if difference is None:
        return "-"
    mean = metric.bare(difference.mean, signed=True)
    if difference.low is None or difference.high is None:
        return mean
    star = " *" if difference.proven else ""
    return f"{mean} ({metric.bare(difference.low, signed=True)} to {metric.bare(difference.high, signed=True)}){star}"


def _listed(values: Sequence[object], between: str) -> str:
    return between.join("-" if value is None else str(value) for value in values)
