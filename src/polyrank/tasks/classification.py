"""Sequence classification: one class per text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from polyrank.core.errors import ModelError
from polyrank.data.dataset import TextDataset
from polyrank.tasks.metric import SHARE, Metric
from polyrank.tasks.task import Batch, Encoded, Examples, Rows, Tally, Task
from polyrank.tasks.tokens import padded, tokenize

if TYPE_CHECKING:  # as in `polyrank.tasks.task`
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Classification(Task):
    """Labels are classes, and a head gives a logit for each; targets are indices of classes, int64, ``(n,)``."""

    metrics: ClassVar = (
        Metric(
            *("accuracy", "accuracy", "higher", SHARE, 1),
            most=1,
            about="Share of the test set that the global adapter classifies correctly, after each evaluated round.",
        ),
        Metric("macro_f1", "macro F1", "higher", most=1, curve=False),
        Metric(
            *("loss", "loss", "lower", "nats"),
            about="Mean cross-entropy on the test set; it also sees how sure the model is of its answers.",
        ),
    )
    labelled: ClassVar = True
    classifies: ClassVar = True
    fixed: ClassVar = True

    def outputs(self, dataset: TextDataset) -> tuple[str, ...]:
        """The classes."""
        return dataset.label_names

    def encode(self, dataset: TextDataset, tokenizer: Any, max_tokens: int, *, end: int | None = None) -> Encoded:
        """Every text with its class; none is left out."""
        classes = dataset.kinds("task classification")
        tokens, cut = tokenize(dataset, tokenizer, max_tokens, end=end)
        examples = Examples(tokens, classes, tokenizer.pad_token_id, classes)
        return Encoded(examples, np.arange(len(tokens)), cut)

    def collate(self, parts: Sequence[tuple[Examples, Rows]], device: torch.device) -> Batch:
        """Padded on the right; rows that fill up are of class 0."""
        return padded(parts, device)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy in nats, ``(rows,)``."""
        return _cross_entropy(_logits(model, batch), batch.targets, "none")

    def scores(self, model: nn.Module, batch: Batch) -> Tally:
        """Nats in all, and how often each class (row) was taken for each (column)."""
        logits = _logits(model, batch)
        confusion = np.zeros((logits.shape[1], logits.shape[1]), dtype=np.int64)
        np.add.at(confusion, (batch.targets.cpu().numpy(), logits.argmax(dim=-1).cpu().numpy()), 1)
        return Tally({"nats": float(_cross_entropy(logits, batch.targets, "sum")), "confusion": confusion})

    def probabilities(self, model: nn.Module, batch: Batch) -> Tensor:
        """Each row's probability of each class, ``(rows, classes)``, in float32 or wider."""
        logits = _logits(model, batch)
        return (logits if logits.dtype.itemsize >= 4 else logits.float()).softmax(dim=-1)

    def measured(self, tally: Tally) -> dict[str, float]:
        """Nats per example, the share of right answers, and the mean over the classes of F1.

        A class that never occurs nor is predicted counts 0: F1 at 0 / 0 is scikit-learn's ``zero_division=0``, over all
        classes of the head.
        """
        confusion = tally.sums["confusion"]
        right, examples = np.diag(confusion), int(confusion.sum())
        sizes = confusion.sum(axis=0) + confusion.sum(axis=1)
        f1 = np.divide(2 * right, sizes, out=np.zeros(len(right)), where=sizes > 0)
        return {
            "loss": tally.sums["nats"] / examples,
            "accuracy": float(right.sum() / examples),
            "macro_f1": float(f1.mean()),
        }

    def constant(self, examples: Examples, *, learned: Sequence[Examples] = (), words: int = 0) -> dict[str, float]:  # noqa: ARG002
        """The share of the class that most of them have."""
        return {"accuracy": int(np.bincount(examples.targets).max()) / len(examples)}


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """A logit per row and class."""
    logits: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    if logits.ndim != 2 or len(logits) != len(batch.targets):
        raise ModelError(f"its logits are {list(logits.shape)}")
    return logits


def _cross_entropy(logits: Tensor, classes: Tensor, reduction: str) -> Tensor:
    """The cross entropy in float32, or in float64 where the logits are."""
    import torch

    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(wide, classes, reduction=reduction)
