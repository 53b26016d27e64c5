"""The same part of several clients' steps as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polyrank.tasks import Task
from polyrank.tasks.task import Batch, Examples


@dataclass(frozen=True, eq=False)
class Padded:
    """A part of each client's step.

    Args:
        batch: ``(clients * rows, tokens)``; a client with fewer examples has rows of padding at its end.
        weights: of each row's loss in its client's mean over the step, ``(clients * rows,)``; 0 for padding.
        rows: per client.
        counts: examples, per client.
        longest: tokens of the longest of them, per client.
    """

    batch: Batch
    weights: Tensor
    rows: int
    counts: Sequence[int]
    longest: Sequence[int]

    @property
    def tokens(self) -> int:
        """How many a row has."""
        return self.batch.input_ids.shape[1]

    def mean(self, each: Tensor) -> Tensor:
        """What the part adds to each client's mean over the step, ``(clients,)``, by each row's loss."""
        return (each * self.weights.to(each.dtype)).view(-1, self.rows).sum(dim=1)


def together(
    task: Task,
    examples: Sequence[Examples],
    chosen: Sequence[np.ndarray],
    units: Sequence[int],
    device: torch.device,
) -> Padded:
    """One batch of all.

    Args:
        task: what is learned.
        examples: of the clients.
        chosen: indices of the examples, per client.
        units: of each client's whole step, by which its losses are divided.
        device: where it is wanted.
    """
    rows = max(len(indices) for indices in chosen)
    batch = task.collate(list(zip(examples, chosen, strict=True)), device)
    weights = np.zeros((len(examples), rows), dtype=np.float64)
    for own, indices, count in zip(weights, chosen, units, strict=True):
        own[: len(indices)] = 1 / count
    longest = [int(held.lengths[own].max(initial=1)) for held, own in zip(examples, chosen, strict=True)]
    return Padded(batch, torch.from_numpy(weights.ravel()).to(device), rows, [len(own) for own in chosen], longest)
