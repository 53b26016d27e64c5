"""Shrinkage: every row moves towards its owners' mean as far as the owners' agreement warrants."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank.aggregation.kernels import dense
from polyrank.aggregation.kernels.spread import Spread, Spreads
from polyrank.aggregation.kernels.updates import check_update
from polyrank.aggregation.method import Aggregate, Kernel, Levels, Method, method
from polyrank.aggregation.sums import Partial, Sums, check_names
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.lowrank import wide
from polyrank.core.state import ClientUpdate, ServerState


@method(
    "shrinkage",
    paper="",
    averages="A and B, every row over its owners, moved less where owners disagree or are few",
    exact="no",
    fixed_sums=False,
    merges=False,
)
@dataclass(frozen=True)
class Shrinkage(Method):
    """``out_j = previous_j + theta_j (owners_mean_j - previous_j)``, ``theta_j = max(0, 1 - N_j / C_j)``.

    ``C_j`` is the mean square of the owners' mean change of row j, ``N_j = v sum_k w_k^2 / W(j)^2`` the part of it that
    is the owners' noise, with ``v`` the variance between owners, pooled over the rows of a factor that have two owners
    or more, whether they may move or not. So a row of one owner moves less than one of many, but further where its
    change is large beside what clients differ by: `tempered` with the exponent chosen by the data. The form is the
    positive-part estimator of James and Stein (1961); using it here, and taking one ``v`` for all rows of a factor, is
    ours; no paper.

    Args:
        min_owners: a row with fewer owners keeps its previous value.
    """

    min_owners: int = 1

    def start(self, server: ServerState, levels: Levels) -> ShrunkMean:  # noqa: ARG002  # any ranks
        return ShrunkMean(server, self.min_owners)


class ShrunkMean(Kernel[Spreads]):
    """What is known of every row of every module once the clients are in: an adapter in float64.

    Args:
        server: the state before the round.
        min_owners: a row with fewer owners keeps its previous value.
    """

    def __init__(self, server: ServerState, min_owners: int) -> None:
        self._server, self._min_owners = server, min_owners

    def empty(self) -> Spreads:
        adapter = self._server.adapter
        modules = {name: Spread.none(factors) for name, factors in adapter.modules.items()}
        return Spreads(modules, Sums(dense.empty(adapter)))

    def check(self, update: ClientUpdate) -> None:
        check_update(update, self._server.adapter)

    def fold(self, sums: Spreads, update: ClientUpdate) -> Spreads:
        self.check(update)
        if update.weight == 0:
            return sums
        for name, factors in update.adapter.modules.items():
            exact = factors.map(Tensor.double).rescaled(self._server.adapter.modules[name].scale)
            sums.modules[name].merge(Spread.one(exact, update.weight))
        dense.add(sums.dense, update, update.weight)
        return sums

    def received(self, partial: Partial) -> Spreads:
        adapter = self._server.adapter
        check_names("tensors", partial.tensors, self.empty().partial().tensors)
        modules = {
            name: Spread.received(partial, f"modules/{name}/", factors) for name, factors in adapter.modules.items()
        }
        others = {name: tensor for name, tensor in partial.tensors.items() if not name.startswith("modules/")}
        return Spreads(modules, Sums(dense.empty(adapter)).like(Partial(others)))

    def conclude(self, sums: Spreads) -> Aggregate:
        before = self._server.adapter.modules
        modules = {name: self._shrunk(before[name], owners) for name, owners in sums.modules.items()}
        adapter = Adapter(modules, dense.means(sums.dense, self._server.adapter))
        return Aggregate(adapter, self._server.base_change)

    def _shrunk(self, before: Factors, owners: Spread) -> Factors:
        a = _towards(before.a, owners.a, owners.apart[0], owners, self._min_owners)
        b = _towards(before.b.T, owners.b.T, owners.apart[1], owners, self._min_owners).T.contiguous()
        return Factors(a, b, before.scale)


def _towards(before: Tensor, mean: Tensor, apart: Tensor, owners: Spread, min_owners: int) -> Tensor:
    """The new rows of one factor, ``(R, d)``: as far from the previous ones towards the owners' mean as they agree."""
    sums = (mean * owners.weight[:, None]).to(wide(before.dtype))  # an overflow of other methods is one here too
    change = mean.masked_fill(~torch.isfinite(sums), math.inf) - before.double()
    size = change.square().mean(dim=1)
    several = owners.count > 1
    freedom = owners.pairs[several].sum()
    variance = apart[several].sum() / freedom if freedom > 0 else torch.zeros_like(freedom)
    moves = (size > 0) & (owners.count >= max(min_owners, 1))
    theta = torch.where(moves, 1 - variance * owners.squares / size, 0.0).clamp(min=0)
    return (before.double() + theta[:, None] * change).to(before.dtype)
