"""A task whose metrics are of other scales and directions, for what compares and shows runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from polyrank.core.registry import Registry
from polyrank.data.dataset import TextDataset
from polyrank.tasks import TASKS, Metric, Task
from polyrank.tasks.classification import Classification
from polyrank.tasks.task import Batch, Encoded, Examples, Rows, Tally


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

    def constant(self, examples: Examples, *, learned: Sequence[Examples] = (), words: int = 0) -> dict[str, float]:  # noqa: ARG002
        shares = np.bincount(examples.targets) / len(examples)
        nats = -sum(share * np.log(share) for share in shares if share > 0)
        return {"perplexity": float(np.exp(nats)), "loss": float(nats)}


@dataclass(frozen=True)
class ByToken(Classification):
    """Every token counts 1, so long texts count more than short ones."""

    def units(self, examples: Examples, indices: Rows) -> int:
        return int(examples.lengths[np.asarray(indices)].sum())

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().losses(model, batch) * batch.attention_mask.sum(dim=1)


@dataclass(frozen=True)
class Choosy(Classification):
    """Texts of more than ``most`` words are no examples."""

    most: int = 8

    def encode(self, dataset: TextDataset, tokenizer: Any, max_tokens: int, *, end: int | None = None) -> Encoded:
        long = np.array([len(text.split()) > self.most for text in dataset.texts])
        kept = np.flatnonzero(~long)
        found = super().encode(dataset.subset(kept), tokenizer, max_tokens, end=end)
        left_out = {f"more than {self.most} words": np.flatnonzero(long)} if long.any() else {}
        return Encoded(found.examples, kept, found.cut, left_out)


REGISTRY: Registry[Task] = Registry("task", {**TASKS, "writing": Writing, "by-token": ByToken, "choosy": Choosy})
