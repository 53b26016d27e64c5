"""What clients of each rank hold and send on DistilBERT, as Byun and Lee count it, and with the head beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

PROJECTIONS = ("q_lin", "k_lin", "v_lin")
"""Three of 768 x 768 in each of six layers: the paper's 27,648 parameters per rank. Which three they are is our
reading; the count is the same with ``out_lin`` in the place of one."""
LABELS = 4
BYTES = 4
"""float32."""


@dataclass(frozen=True)
class Cost:
    """Of one client at one (mean) rank.

    Args:
        what: for people.
        lora: LoRA parameters.
        head: parameters of the classification head, which the paper leaves out.
    """

    what: str
    lora: int
    head: int

    @property
    def mib(self) -> float:
        """LoRA alone."""
        return self.lora * BYTES / 2**20

    @property
    def mib_with_head(self) -> float:
        """What a client really sends."""
        return (self.lora + self.head) * BYTES / 2**20


def measure() -> list[Cost]:
    """Counted on the model's own layers, which are never filled with numbers."""
    with torch.device("meta"):
        model = DistilBertForSequenceClassification(DistilBertConfig(num_labels=LABELS))
    layers = [m for name, m in model.named_modules() if name.endswith(PROJECTIONS) and isinstance(m, nn.Linear)]
    per_rank = sum(layer.in_features + layer.out_features for layer in layers)
    head = sum(p.numel() for part in (model.pre_classifier, model.classifier) for p in part.parameters())
    plans = {
        "one rank": 1.0,
        "rank 5 for all": 5.0,
        "rank 7 for all": 7.0,
        "rank 20 for all": 20.0,
        "20 for a tenth, 5 for the others (mean 6.5)": (20 + 9 * 5) / 10,
    }
    return [Cost(what, round(rank * per_rank), head) for what, rank in plans.items()]


def table(costs: Sequence[Cost] | None = None) -> str:
    """Markdown."""
    lines = ["| per client | LoRA parameters | MiB | head | MiB with the head |", "|---|---|---|---|---|"]
    lines += [
        f"| {c.what} | {c.lora:,} | {c.mib:.2f} | {c.head:,} | {c.mib_with_head:.2f} |" for c in costs or measure()
    ]
    return "\n".join(lines)
