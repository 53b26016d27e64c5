"""Runs as reports read them, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polyrank import config
from polyrank.report.runs import Run

SCORING = {"bytes/up": 100, "bytes/down": 50}


def made(
    accuracies: Sequence[float | None],
    *overrides: str,
    seed: int = 0,
    up: int = 10,
    down: int = 20,
    path: str = "",
    scoring: dict[str, int] | None = None,
) -> Run:
    """A finished run with a line per accuracy; None is a round without evaluation."""
    chosen = config.load(None, [f"federation.seed={seed}", *overrides])
    lines = [
        {"round": i + 1, "bytes/up": up, "bytes/down": down, **({} if value is None else {"test/accuracy": value})}
        for i, value in enumerate(accuracies)
    ]
    return Run(Path(path or f"run-{seed}"), chosen, lines, {}, SCORING if scoring is None else scoring, {}, {})
