"""A task whose metrics are of other scales and directions, for what compares and shows runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from polyrank.core.registry import Registry
from polyrank.tasks import TASKS, Metric, Task
from polyrank.tasks.classification import Classification
from polyrank.tasks.task import Examples, Tally


@dataclass(frozen=True)
class Writing(Classification):
    """Classification as a language model's would be measured: less is better, on no scale of 0 to 1."""

    metrics: ClassVar = (
        Metric("perplexity", "perplexity", "lower", digits=1, least=1, about="How many words it hesitates between."),
        Metric("loss", "loss", "lower", "nats", about="Nats per example."),
    )

    def measured(self, tally: Tally) -> dict[str, float]:
        nats = tally.sums["nats"] / int(tally.sums["confusion"].sum())
        return {"loss": nats, "perplexity": float(np.exp(nats))}

    def constant(self, examples: Examples) -> dict[str, float]:
        shares = np.bincount(examples.targets) / len(examples)
        nats = -sum(share * np.log(share) for share in shares if share > 0)
        return {"perplexity": float(np.exp(nats)), "loss": float(nats)}


REGISTRY: Registry[Task] = Registry("task", {**TASKS, "writing": Writing})
