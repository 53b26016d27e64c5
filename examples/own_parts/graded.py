"""Classes in an order, such as stars: how far off an answer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from polyrank.tasks import Metric
from polyrank.tasks.classification import Classification
from polyrank.tasks.task import Tally


@dataclass(frozen=True)
class Graded(Classification):
    """Classification whose labels are grades in their order (``data.labels``); it also measures the distance."""

    metrics: ClassVar = (
        Metric(
            *("distance", "mean distance", "lower", "grades"),
            about="Mean number of grades between the likeliest class and the right one.",
        ),
        *Classification.metrics,
    )

    def measured(self, tally: Tally) -> dict[str, float]:
        """The metrics of a classification, and the mean distance."""
        confusion = tally.sums["confusion"]
        grades = np.arange(len(confusion))
        off = np.abs(grades[:, None] - grades[None, :])
        return {"distance": float((off * confusion).sum() / confusion.sum()), **super().measured(tally)}

    def constant(self, examples, *, learned=(), words=0):  # noqa: ANN001, ANN201  # as in Task.constant
        """The best single grade for the accuracy, and the median for the distance."""
        middle = np.sort(examples.targets)[(len(examples) - 1) // 2]
        found = super().constant(examples, learned=learned, words=words)
        return {"distance": float(np.abs(examples.targets - middle).mean()), **found}
