"""Tempered: between owner mean and zero padding of the change, by how much of the cohort owns a row."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.rows import RareRows, Rows
from polyrank.aggregation.method import method
from polyrank.core.errors import ConfigError


@method(
    "tempered",
    paper="",
    averages="A and B, every row over its owners, rare rows move less",
    exact="no",
    fixed_sums=True,
    aligns=True,
)
@dataclass(frozen=True)
class Tempered(RareRows):
    """``out_j = (1 - theta_j) previous_j + theta_j owners_mean_j`` with ``theta_j = (W(j) / W) ** gamma``.

    A row with one owner is that client's noise as much as its signal: owner_mean (``gamma = 0``) moves the whole way
    to it, zero_padding_delta (``gamma = 1``) moves by the owner's share. A method of our own; no paper.

    Args:
        gamma: 0 or more.
        min_owners: a row with fewer owners keeps its previous value.
    """

    gamma: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ConfigError(f"tempered: gamma is {self.gamma}; expected a number of 0 or more")

    def combine(self, rows: Rows) -> Tensor:
        return rows.tempered(self.gamma)
