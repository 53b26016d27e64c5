"""A comparison as JSON, as CSV, and as rows of text for a screen."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from polyrank.report.statistics import CONFIDENCE, LAST, LEVEL, Comparison, Difference, Row, Spread

BRACKETS = (
    f"{100 * CONFIDENCE:g} % confidence interval of the paired difference by itself, in points; *: a difference at the "
    f"level of {100 * LEVEL:g} % after Holm's correction for the number of methods"
)
"""What brackets and stars mean; the correction is made in each of the two columns."""
NOTE = f"end: mean of the last {LAST} evaluated rounds; ±: standard deviation over the seeds; in brackets: {BRACKETS}"
"""What the columns of `cells` mean."""
_PARTS = ("mean", "low", "high", "p", "p_holm")
"""Of a difference, as CSV has them."""


def as_json(comparison: Comparison) -> dict[str, Any]:  # Any: plain JSON values
    """Everything, numbers in full."""
    return {
        "target": comparison.target,
        "reference": comparison.reference,
        "end_rounds": LAST,
        "correction": "Holm",
        "level": LEVEL,
        "methods": [asdict(row) for row in comparison.rows],
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
    """Of the columns of `cells`."""
    target = f"{100 * comparison.target:g} %"
    return (
        "method",
        f"rounds to {target}",
        f"MiB to {target}",
        "accuracy at the end",
        "mean over all rounds",
        "MiB per round",
        f"end, against {comparison.reference}",
        f"mean, against {comparison.reference}",
    )


def cells(row: Row) -> tuple[str, ...]:
    """One method's line: per cent, MiB, a number per seed where seeds are not averaged."""
    reached = [None if sent is None else f"{sent / 2**20:.1f}" for sent in row.bytes_to_target]
    return (
        row.name,
        _listed(row.rounds_to_target, ", "),
        _listed(reached, ", "),
        spread_text(row.end),
        spread_text(row.area),
        f"{row.bytes_per_round / 2**20:.2f}",
        difference_text(row.end_difference),
        difference_text(row.area_difference),
    )


def spread_text(spread: Spread) -> str:
    """Mean and standard deviation in per cent.

    >>> spread_text(Spread(0.5678, 0.0123)), spread_text(Spread(0.5, None))
    ('56.8 ± 1.2 %', '50.0 %')
    """
    deviation = "" if spread.deviation is None else f" ± {100 * spread.deviation:.1f}"
    return f"{100 * spread.mean:.1f}{deviation} %"


def difference_text(difference: Difference | None) -> str:
    """Points with their confidence interval, where there is one; a star where they are no chance by Holm's correction.

    >>> difference_text(Difference(-0.031, -0.052, -0.010, 0.02, 3, p_holm=0.04)), difference_text(None)
    ('-3.1 (-5.2 to -1.0) *', '-')
    >>> difference_text(Difference(-0.031, -0.052, -0.010, 0.02, 3, p_holm=0.36))
    '-3.1 (-5.2 to -1.0)'
    """
    if difference is None:
        return "-"
    mean = f"{100 * difference.mean:+.1f}"
    if difference.low is None or difference.high is None:
        return mean
    star = " *" if difference.proven else ""
    return f"{mean} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f}){star}"


def _listed(values: Sequence[object], between: str) -> str:
    return between.join("-" if value is None else str(value) for value in values)
