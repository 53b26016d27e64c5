"""HetLoRA's self-pruning: clients give up rank indices that they do not need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyrank.core.adapter import Adapter
from polyrank.core.state import ClientUpdate
from polyrank.ranks.fixed import Fixed


@dataclass(frozen=True)
class SelfPruning(Fixed):
    """Start as fixed ranks; a client whose tail got smaller in a round shrinks to ``q = floor(prune_keep * r)``.

    The tail is ``sum over modules |B[:, q:]|_F |A[q:, :]|_F``, which local training penalises with the weight
    ``prune_weight``; smaller is judged against what the client started from. No client shrinks below the lowest level,
    and one that is there is not penalised. Source: Cho et al. 2024 (HetLoRA), section 3.2; that a client of a round is
    judged by its own round is a reading of ours.
    """

    @property
    def prunes(self) -> bool:
        return True

    def shrunk(self, rank: int) -> int:
        """``q``, but neither below the lowest level nor above the rank."""
        return min(rank, max(int(self.config.prune_keep * rank), self.config.levels[0]))

    def adapt(
        self, ranks: Mapping[str, int], started: Mapping[str, Adapter], updates: Sequence[ClientUpdate]
    ) -> dict[str, int]:
        """The ranks after a round."""
        after = dict(ranks)
        for update in updates:
            kept = self.shrunk(ranks[update.client])
            if tail(update.adapter, kept) < tail(started[update.client], kept):
                after[update.client] = kept
        return after


def tail(adapter: Adapter, kept: int) -> float:
    """``sum over modules |B[:, kept:]|_F |A[kept:, :]|_F``; 0 where there is none."""
    return sum(
        float(f.b[:, kept:].double().norm()) * float(f.a[kept:].double().norm()) for f in adapter.modules.values()
    )
