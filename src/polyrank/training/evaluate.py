"""Metrics of the installed adapter on a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from polyrank.tasks import classification

if TYPE_CHECKING:  # scores travel between processes that need no transformers
    from polyrank.hf.resident import ResidentModel
    from polyrank.tasks.classification import Examples


@dataclass(frozen=True)
class Scores:
    """What one evaluation measured: loss in nats per example, accuracy and macro F1 in 0..1."""

    loss: float
    accuracy: float
    macro_f1: float


@torch.inference_mode()
def evaluate(resident: ResidentModel, examples: Examples, classes: int, batch_size: int) -> Scores:
    """Scores of whatever is installed, over all examples, longest first."""
    order = np.argsort(-examples.lengths, kind="stable")
    predicted = np.empty(len(examples), dtype=np.int64)
    total = 0.0
    resident.model.eval()
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = classification.collate(examples, indices, resident.device)
        with resident.computing():
            logits = resident.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        total += float(classification.loss(logits, batch.labels, reduction="sum"))
        predicted[indices] = logits.argmax(dim=-1).cpu().numpy()
    accuracy, macro_f1 = classification.accuracy_and_macro_f1(predicted, examples.labels, classes)
    return Scores(total / len(examples), accuracy, macro_f1)
