"""The coordinate median."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from polyrank.aggregation.robust.centre import Centre


@dataclass(frozen=True)
class Median(Centre):
    """The median of every number of a row over the row's owners; of an even number the mean of the middle two.

    Source: Yin et al., ICML 2018 (arXiv 1803.01498); that a row's own owners are asked is ours.
    """

    name: ClassVar[str] = "median"

    def centre(self, values: Tensor, hostile: int) -> Tensor:  # noqa: ARG002  # however many there are
        return coordinate_median(values)


def coordinate_median(values: Tensor) -> Tensor:
    """Over the first dimension."""
    ordered = values.sort(dim=0).values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
