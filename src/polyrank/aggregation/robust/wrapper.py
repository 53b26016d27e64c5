"""A method on rows that takes no client's word for it: what the clients sent is judged together before it is added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polyrank.aggregation.around import Around
from polyrank.aggregation.kernels.rows import RowMean, RowMethod
from polyrank.aggregation.method import Aggregate, Kernel, Levels, MethodInfo, Needs
from polyrank.aggregation.robust import kept
from polyrank.aggregation.robust.kept import Kept
from polyrank.aggregation.robust.rule import Rule
from polyrank.aggregation.sums import Partial
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError
from polyrank.core.state import ClientUpdate, ServerState


@dataclass(frozen=True)
class Robust(Around):
    """A method on rows, whose clients' updates go through a rule before it adds them up.

    Every client counts once, whatever number of examples it claims. Rules that find a centre give it to all owners of a
    row, so the method's formula holds for the centres ``c_j``: owner mean and replication give ``c_j`` (all owners of a
    row are its donors then, as with ``donor = "owners"``), tempered moves towards it, zero padding multiplies it by the
    owners' share of the clients. A row with too few owners for the rule keeps its previous value. All clients' factors
    are kept until the round is concluded.

    Args:
        method: what is done with what the rule makes of the updates.
        rule: what becomes of them.

    Raises:
        ConfigError: the method has no rows to judge, gives clients others than the first ones, or weighs them by what
            they send; or the rule compares products and the server never sees both factors.
    """

    method: RowMethod
    rule: Rule

    def __post_init__(self) -> None:
        name = self.method.info.name
        if not isinstance(self.method, RowMethod):
            raise ConfigError(
                f"aggregation.robust judges rows of A and B, and {name} does not average rows; take a method that "
                "does, such as replication, owner_mean or zero_padding_delta, or aggregation.robust none"
            )
        if self.method.info.own_weights:
            raise ConfigError(
                f"{name} weighs clients by the norm of what they send, which a hostile client chooses; with "
                "aggregation.robust take a method that does not, such as zero_padding, or aggregation.robust none"
            )
        if self.method.info.judges:
            raise ConfigError(
                f"{name} weighs clients by what the server measures of each, and under aggregation.robust all of them "
                "count alike; take another method, such as tempered, or aggregation.robust none"
            )
        if not self.method.info.first_indices:
            raise ConfigError(
                f"aggregation.robust compares clients by the first rank indices, and with {name} they have others; "
                "take a method of the first ones, such as owner_mean, or aggregation.robust none"
            )
        if self.rule.compares_products and self.method.parts(1).keeps & {"a", "b"}:
            raise ConfigError(
                f"robust rule {self.rule.name} compares the clients' products, and with {name} a factor stays with the "
                "client; take another rule, such as median"
            )

    @property
    def info(self) -> MethodInfo:  # type: ignore[override]  # a wrapper's facts are those of what it wraps
        """The method's, but that every client's factors are kept; a merge has no rounds in which to judge."""
        inner = self.method.info
        return replace(
            inner, averages=f"{inner.averages}, by a robust rule", exact="no", fixed_sums=False, merges=False
        )

    def start(self, server: ServerState, levels: Levels) -> RobustKernel:
        return RobustKernel(server, levels, self.method, self.rule)

    def needs(self, count: int) -> Needs:
        return self.rule.needs(count)


class RobustKernel(Kernel[Kept]):
    """Keeps the updates, and concludes by the kernel of the method.

    Args:
        server: the state before the round.
        levels: of the clients that were asked.
        method: what it does with what the rule leaves.
        rule: what becomes of the updates.
    """

    def __init__(self, server: ServerState, levels: Levels, method: RowMethod, rule: Rule) -> None:
        self._server, self._levels, self._method, self._rule = server, levels, method, rule
        self._inner = RowMean(server, levels, method)

    def empty(self) -> Kept:
        return Kept([])

    def check(self, update: ClientUpdate) -> None:
        self._inner.check(update)

    def fold(self, sums: Kept, update: ClientUpdate) -> Kept:
        self.check(update)
        if update.weight > 0:
            # a copy: the caller may go on with the memory of its update
            sums.updates.append(replace(update, adapter=update.adapter.map(torch.clone), weight=1.0))
        return sums

    def received(self, partial: Partial) -> Kept:
        found = kept.received(partial)
        for update in found.updates:
            self.check(update)
        return found

    def conclude(self, sums: Kept) -> Aggregate:
        """What the method makes of what the rule leaves; everything stays where it leaves nothing."""
        if not sums.updates:
            return Aggregate(self._server.adapter, self._server.base_change)
        updates = [self._exact(update) for update in sorted(sums.updates, key=lambda one: one.client)]
        judged = self._rule.judge(updates, self._server.adapter)
        least = max(self._rule.needs(len(updates)).owners, self._method.least_owners())
        kernel = RowMean(self._server, self._levels, self._method, least_owners=least)
        added = kernel.empty()
        for update in judged.updates:
            added = kernel.fold(added, update)
        result = kernel.conclude(added)
        held = _held([update.adapter for update in judged.updates], self._server.adapter, least)
        return replace(result, metrics={**result.metrics, **judged.metrics, "rows_held": held})

    def _exact(self, update: ClientUpdate) -> ClientUpdate:
        """The update at the global scale, in float64: no client's numbers are too large for the rule to look at."""
        known, own = self._server.adapter.modules, update.adapter.map(Tensor.double)
        modules = {name: factors.rescaled(known[name].scale) for name, factors in own.modules.items()}
        return replace(update, adapter=Adapter(modules, own.dense))


def _held(adapters: Sequence[Adapter], before: Adapter, least: int) -> float:
    """Share of the rank indices that have fewer owners than ``least``, over all modules."""
    held = every = 0
    for name, known in before.modules.items():
        ranks = [adapter.modules[name].rank for adapter in adapters if name in adapter.modules]
        held += sum(sum(rank > j for rank in ranks) < least for j in range(known.rank))
        every += known.rank
    return held / every if every else 0.0
