"""What a client is asked to do in a round."""

from __future__ import annotations

from polyrank.aggregation import Download
from polyrank.core.seeds import derive
from polyrank.core.state import ServerState
from polyrank.federation.setup import Federation
from polyrank.training.work import Job, Penalty


def job(federation: Federation, state: ServerState, client: str, number: int, start: Download) -> Job:
    """The local training of one client.

    Args:
        federation: what is run.
        state: before the round.
        client: its name.
        number: of the round; 0 is the scoring round.
        start: what the client trains from.
    """
    examples = federation.examples[client]
    kept = federation.policy.shrunk(state.ranks[client])
    return Job(
        client,
        start.adapter,
        examples,
        weight=float(len(examples)),
        seed=derive(federation.config.federation.seed, "training", number, client),
        base_change=start.base_change,
        trains=federation.parts(max(number, 1)).trains,
        penalty=Penalty(kept, federation.config.ranks.prune_weight) if kept < state.ranks[client] else None,
        round=number,
    )
