"""The geometric median."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polyrank.aggregation.robust.centre import Centre
from polyrank.aggregation.robust.median import coordinate_median
from polyrank.core.errors import ConfigError

SMOOTHED = 1e-6
"""A distance counts as at least this share of the median one, so that no client's row holds the search fast."""
STILL = 1e-9
"""The search ends where a step is at most this share of the median distance."""
LEAST = 1e-150
"""A distance counts as at least this much, where most owners agree to the last bit."""


@dataclass(frozen=True)
class GeometricMedian(Centre):
    """The row from which the owners' rows are least far in sum, ``argmin_x sum_k |x_k - x|``, by Weiszfeld's steps.

    Source: Pillutla et al., IEEE TSP 2022 (arXiv 1912.13445, RFA), whose smoothed steps these are; theirs is one
    median of all values of a client, here every row has its own, over its owners. It begins at the coordinate median,
    which hostile rows cannot carry away, where the mean can be.

    Args:
        steps: the most.
    """

    steps: int = 100

    name: ClassVar[str] = "geometric_median"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"robust rule {self.name}: steps is {self.steps}; expected 1 or more")

    def centre(self, values: Tensor, hostile: int) -> Tensor:  # noqa: ARG002  # however many there are
        found = coordinate_median(values)
        for _ in range(self.steps):
            gaps = torch.linalg.vector_norm(values - found, dim=2, keepdim=True)
            size = coordinate_median(gaps)
            nearest = (SMOOTHED * size).clamp(min=LEAST)
            pull = nearest / gaps.maximum(nearest)
            after = (pull * values).sum(dim=0) / pull.sum(dim=0)
            step = torch.linalg.vector_norm(after - found, dim=1, keepdim=True)
            found = after
            if bool((step <= STILL * size).all()):
                break
        return found
