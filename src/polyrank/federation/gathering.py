"""How a round's work becomes the server's next state: with every update in the clear, unless a run says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

from polyrank.aggregation import Download
from polyrank.aggregation.diagnostics import owners_weight
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.judging import hooks, judged
from polyrank.federation.tree import RoundResult, aggregate
from polyrank.training.work import Outcome, Work

if TYPE_CHECKING:
    from polyrank.federation.server import Server

Told: TypeAlias = Callable[[int, int], None]
"""It is told how many clients have finished, of how many."""


@dataclass(frozen=True, eq=False)
class Gathered:
    """A round's work, done and added up.

    Args:
        outcomes: of all who were asked.
        updates: of those that trained, bad ones included; none where the server sees none.
        result: of aggregating them.
        owned: share of the round's weight that owns each rank index.
    """

    outcomes: Sequence[Outcome]
    updates: Sequence[ClientUpdate]
    result: RoundResult
    owned: Sequence[float]


class Gather(Protocol):
    """A way to do a round's work and add it up."""

    def __call__(
        self, server: Server, state: ServerState, works: Sequence[Work], sent: Mapping[str, Download], told: Told
    ) -> Gathered:
        """The round.

        Args:
            server: whose round it is.
            state: before it.
            works: of the cohort.
            sent: the cohort's read-outs.
            told: of progress.
        """


def in_the_clear(
    server: Server, state: ServerState, works: Sequence[Work], sent: Mapping[str, Download], told: Told
) -> Gathered:
    """The server has every update, leaves bad ones out by name, and adds up the others."""
    by_client = {work.client: work for work in works}
    outcomes: list[Outcome] = []
    for outcome in server.engine.run(works):
        outcomes.append(outcome)
        told(len(outcomes), len(works))
    updates = [made for one in outcomes if (made := one.update(by_client[one.client])) is not None]
    losses: Mapping[str, float] = {}
    judging = server.method.info.judges
    if judging:
        with server.site.clock("evaluation"):
            updates, losses = judged(server.site, updates)
    with server.site.clock("aggregation"):
        result = aggregate(
            state,
            updates,
            server.method,
            uniform=server.config.aggregation.weights == "uniform",
            local_head=server.local_head,
            sent=sent,
            hooks=hooks(server.site) if judging else None,
        )
    silent = {outcome.client: outcome.problem for outcome in outcomes if outcome.trained is None}
    own = {one.client: server.method.owned(state, one) for one in result.received}
    owned = owners_weight(result.received, state.adapter.rank, own)
    result = replace(result, dropped={**silent, **result.dropped}, metrics={**result.metrics, **losses})
    return Gathered(outcomes, updates, result, owned)
