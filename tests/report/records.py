"""Runs as reports read them, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polyrank import config, tasks
from polyrank.report.runs import Run
from polyrank.tasks.metric import TEST

SCORING = {"bytes/up": 100, "bytes/down": 50}


def made(
    values: Sequence[float | None],
    *overrides: str,
    seed: int = 0,
    up: int = 10,
    down: int = 20,
    path: str = "",
    scoring: dict[str, int] | None = None,
    task: str = "classification",
    lost: Sequence[int] = (),
) -> Run:
    """A finished run with a line per value of the task's first metric; None is a round without evaluation.

    In the rounds ``lost`` the value was not finite.
    """
    chosen = config.load(None, [f"federation.seed={seed}", *overrides, f"task.name={task}"])
    key = f"{TEST}{tasks.task(chosen).primary.name}"
    lines = [
        {
            "round": i + 1,
            "bytes/up": up,
            "bytes/down": down,
            **({} if value is None else {key: None if i + 1 in lost else value}),
        }
        for i, value in enumerate(values)
    ]
    return Run(
        Path(path or f"run-{seed}"), chosen, lines, {}, SCORING if scoring is None else scoring, {"task": task}, {}
    )
