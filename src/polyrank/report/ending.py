"""Why a run has fewer rounds than were planned."""

from __future__ import annotations

from polyrank.report.runs import Run


def unfinished(run: Run) -> str | None:
    """What is to be said after a run's name, such as "is not finished: 3 of 5 rounds"; None if all rounds are there."""
    planned = run.config.federation.rounds
    if run.stopped_early:
        patience, title = run.config.evaluation.patience, run.task.primary.title
        evaluations = "1 evaluation" if patience == 1 else f"{patience} evaluations"
        return (
            f"ended after round {len(run.lines)} of {planned}: {evaluations} without a better test {title} "
            "(evaluation.patience)"
        )
    if run.summary is None or len(run.lines) < planned:
        return f"is not finished: {len(run.lines)} of {planned} rounds"
    return None
