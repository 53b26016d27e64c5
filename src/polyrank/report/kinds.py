"""What became of each kind of text, over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from polyrank.report.runs import Run
from polyrank.tasks import Metric
from polyrank.tasks.metric import BY_KIND, TEST


@dataclass(frozen=True)
class Change:
    """What training did to a metric, mean over the seeds: of the base as it is, and of the last evaluated round.

    Args:
        before: None where it was not measured, or was not finite.
        after: as ``before``.
    """

    before: float | None
    after: float | None


def kinds(runs: Sequence[Run], metric: Metric) -> dict[str, Change]:
    """Kind of text -> what became of a metric there, mean over the seeds; the worst at the end comes first."""
    key = f"{TEST}{metric.name}{BY_KIND}"
    ends = [run.evaluated[-1].get(key) or {} for run in runs]
    starts = [(run.untrained or {}).get(key) or {} for run in runs]
    named = dict.fromkeys(kind for end in ends for kind in end)
    found = {
        kind: Change(
            mean([start.get(kind) for start, end in zip(starts, ends, strict=True) if kind in end]),
            mean([end[kind] for end in ends if kind in end]),
        )
        for kind in named
    }
    return dict(sorted(found.items(), key=lambda pair: (metric.merit(metric.measured(pair[1].after)), pair[0])))


def mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is missing or not finite."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(found) if values and len(found) == len(values) else None
