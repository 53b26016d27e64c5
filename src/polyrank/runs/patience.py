"""Whether a run has gone on for long enough without getting better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyrank.tasks.metric import TEST, Metric, best, is_evaluated


def is_spent(lines: Sequence[Mapping[str, Any]], metric: Metric, patience: int | None) -> bool:  # Any: JSON values
    """Whether so many evaluations came after the best one, of which none was better; equal is not better.

    It looks at nothing but what is on disk, so that a run that was stopped and goes on ends where another would have.

    Args:
        lines: of metrics.jsonl, that of round 0 not among them.
        metric: the task's primary one.
        patience: None for no end.
    """
    values = [metric.measured(line[f"{TEST}{metric.name}"]) for line in lines if is_evaluated(line)]
    return patience is not None and bool(values) and len(values) - 1 - best(metric, values) >= patience
