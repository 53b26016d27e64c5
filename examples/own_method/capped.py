"""Owner mean in which large clients count for no more than a cap."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polyrank.aggregation.kernels.rows import RowMethod, Rows
from polyrank.aggregation.method import method
from polyrank.core.errors import ConfigError
from polyrank.core.state import ClientUpdate


@method(
    "capped",
    paper="",
    averages="A and B, every row over its owners, weights cut at a cap",
    exact="no",
    fixed_sums=True,
)
@dataclass(frozen=True)
class Capped(RowMethod):
    """Owner mean with ``min(w_k, most)`` in place of ``w_k``.

    Args:
        most: the largest weight; of ``aggregation.weights = "examples"`` a number of examples.

    Raises:
        ConfigError: it is not above 0.
    """

    most: float = 100.0

    def __post_init__(self) -> None:
        """Refuse what would leave no client any weight."""
        if not self.most > 0:
            raise ConfigError(f"aggregation method capped, option most: found {self.most}; expected a number above 0")

    def combine(self, rows: Rows) -> Tensor:
        """The new rows of one factor."""
        return rows.owners_mean()

    def weight(self, update: ClientUpdate) -> float:
        """What a client weighs."""
        return min(update.weight, self.most)
