"""The trimmed mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from polyrank.aggregation.robust.centre import Centre


@dataclass(frozen=True)
class Trimmed(Centre):
    """The mean of every number of a row over the row's owners, without the ``f`` smallest and the ``f`` largest.

    ``f`` is that of the whole round, not of the owners: all hostile clients may own the row. Source: Yin et al., ICML
    2018 (arXiv 1803.01498).
    """

    name: ClassVar[str] = "trimmed"

    def centre(self, values: Tensor, hostile: int) -> Tensor:
        return values.sort(dim=0).values[hostile : len(values) - hostile].mean(dim=0)
