"""Validated: every row over its owners, weighed by what their models are worth on the server's validation set."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.rows import RareRows, Rows
from polyrank.aggregation.method import method
from polyrank.core.errors import AdapterError, ConfigError
from polyrank.core.state import ClientUpdate, ServerState


@method(
    "validated",
    paper="",
    averages="A and B, every row over its owners by their validation loss, rare rows move less",
    exact="no",
    fixed_sums=True,
    judges=True,
    merges=False,
)
@dataclass(frozen=True)
class Validated(RareRows):
    """`tempered` with weights ``v_k = w_k exp(-sharpness (L_k - min_l L_l))``, L_k the loss of client k's own model.

    The loss is that of the balanced set by which the seed paper's server scores its clients once (Byun and Lee, NAACL
    2025); here it is measured in every round. So what counts is not who has the rank but who learned: a row moves
    towards the mean of its good owners, by ``theta_j = (V(j) / V) ** gamma``, and one whose owners are all poor beside
    the rest of the round hardly moves. ``sharpness = 0`` is tempered. A method of our own; no paper.

    Args:
        sharpness: 0 or more, per nat.
        gamma: 0 or more.
        min_owners: a row with fewer owners keeps its previous value.
    """

    sharpness: float = 1.0
    gamma: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (("sharpness", self.sharpness), ("gamma", self.gamma)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"validated: {name} is {value}; expected a number of 0 or more")

    def check(self, update: ClientUpdate, server: ServerState) -> None:  # noqa: ARG002  # whatever it follows
        if update.excess is None or not update.excess >= 0:
            raise AdapterError(
                f"client {update.client} has the excess loss {update.excess}; expected what a server with a validation "
                "set measures of every client of a round, for validated weighs them by it"
            )

    def weight(self, update: ClientUpdate) -> float:
        assert update.excess is not None  # checked before it is added
        return update.weight * math.exp(-self.sharpness * update.excess) if math.isfinite(update.excess) else 0.0

    def combine(self, rows: Rows) -> Tensor:
        theta = (rows.owned / rows.weight) ** self.gamma
        return (1 - theta) * rows.previous + theta * rows.owners_mean()
