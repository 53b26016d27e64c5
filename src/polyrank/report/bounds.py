"""Whether what a run folder's files say of one another, and of a task's metrics, can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyrank.core.errors import RunFolderError
from polyrank.tasks.metric import TEST

if TYPE_CHECKING:
    from polyrank.report.runs import Run

ROUNDING = 1e-6
"""By which a value may lie beyond its metric's bounds."""


def check_labels(run: Run) -> None:
    """Refuse clients that count other labels than the run has.

    Raises:
        RunFolderError: one does.
    """
    labels = len(run.about.get("labels", ()))
    for name, client in run.clients.items():
        if (counts := client.get("labels")) and len(counts) != labels:
            raise RunFolderError(
                f"{run.path}: clients.json counts {len(counts)} labels of {name}, and run.json names {labels}: a file "
                "was changed; put back what was there"
            )


def check_bounds(run: Run) -> None:
    """Refuse a value that its metric cannot have: whatever is made of it, such as a target, would be wrong.

    Raises:
        RunFolderError: there is one.
    """
    for line in run.lines:
        for metric in run.task.metrics:
            value = line.get(f"{TEST}{metric.name}")
            if value is not None and not any(metric.allows(value + gap) for gap in (0.0, ROUNDING, -ROUNDING)):
                raise RunFolderError(
                    f"{run.path}: {metric.name} is {value:g} in round {line['round']}; expected {metric.bounds}: "
                    "metrics.jsonl was changed; put back what was there"
                )
