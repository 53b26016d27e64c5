"""Validated: clients are weighed, and the step is chosen, by losses on the server's validation set."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polyrank.aggregation.kernels.rows import RareRows, RowMean, Rows
from polyrank.aggregation.method import Aggregate, Levels, method
from polyrank.aggregation.sums import Sums
from polyrank.core.errors import AdapterError, ConfigError
from polyrank.core.state import ClientUpdate, ServerState

GAMMAS = (0.0, 0.5, 1.0)
"""Among which a round's exponent is chosen: the owners' mean, half way, and their share of the change."""


@method(
    "validated",
    paper="",
    averages="A and B, every row over its owners by their validation loss, rare rows as far as it pays",
    exact="no",
    fixed_sums=True,
    judges=True,
    merges=False,
)
@dataclass(frozen=True)
class Validated(RareRows):
    """`tempered` with weights ``v_k = w_k exp(-sharpness (L_k - min_l L_l))``, L_k the loss of client k's own model.

    The loss is that of the balanced set by which the seed paper's server scores its clients once (Byun and Lee, NAACL
    2025); here it is measured in every round. So what counts is not who has the rank but who learned. How far a row
    moves, ``theta_j = (V(j) / V) ** gamma``, is chosen too: the server makes the round's result for gamma 0, 1/2 and 1
    from the same sums, and takes the one of the lowest loss on that set. A method of our own; no paper. Its constants
    were fixed on AG News and the quickstart.

    Args:
        sharpness: 0 or more, per nat.
        choose: whether gamma is chosen in every round; else it is ``gamma``.
        gamma: 0 or more.
        min_owners: a row with fewer owners keeps its previous value.
    """

    sharpness: float = 1.0
    choose: bool = True
    gamma: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (("sharpness", self.sharpness), ("gamma", self.gamma)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"validated: {name} is {value}; expected a number of 0 or more")

    def start(self, server: ServerState, levels: Levels) -> RowMean:
        return _Candidates(server, levels, self) if self.choose else RowMean(server, levels, self)

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
        return rows.tempered(self.gamma)


class _Candidates(RowMean):
    """One round, concluded once for each gamma."""

    def __init__(self, server: ServerState, levels: Levels, method: Validated) -> None:
        super().__init__(server, levels, method)
        gammas = dict.fromkeys((*GAMMAS, method.gamma))
        self._own = method.gamma
        self._each = {gamma: RowMean(server, levels, replace(method, gamma=gamma)) for gamma in gammas}

    def conclude(self, sums: Sums) -> Aggregate:
        """The result for the method's own gamma, and those of which the server takes the best."""
        found: dict[float, Aggregate] = {}
        for gamma, kernel in self._each.items():
            own = Sums({name: torch.clone(tensor) for name, tensor in sums.tensors.items()})
            found[gamma] = kernel.conclude(own)
        candidates = tuple(replace(found[gamma], metrics={"gamma": gamma}) for gamma in GAMMAS)
        return replace(found[self._own], candidates=candidates)
