"""What the server measures on held-out text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from polyrank.aggregation import Download
from polyrank.core.state import ServerState
from polyrank.federation.round import personalise, read_out
from polyrank.federation.setup import Federation
from polyrank.tasks.task import Examples
from polyrank.training.evaluate import evaluate

Scores = Mapping[str, float]
"""Name of a metric -> value, in the task's order."""


def score(federation: Federation, model: Download, examples: Examples) -> Scores:
    """Metrics of one adapter with its head and base change on one set."""
    federation.resident.install(model.adapter, model.base_change)
    task, batch_size = federation.task, federation.config.evaluation.batch_size
    return task.measured(evaluate(federation.resident, task, examples, batch_size))


def score_global(federation: Federation, state: ServerState, clients: Sequence[str]) -> Scores:
    """Test metrics of the global model: base, base change and adapter together.

    Where anything stays with the clients (a local head, a personal B) there is no one global model: the mean over
    ``clients`` of what each of them has, whose models weigh 1 each.
    """
    if _personal(federation, state):
        return _mean([_own(federation, state, client) for client in clients])
    return score(federation, Download(state.adapter, state.base_change), federation.test)


def rank_groups(federation: Federation, state: ServerState, clients: Sequence[str]) -> dict[int, Scores]:
    """Test metrics of what each rank group starts from; of personal models, the mean over its own in ``clients``."""
    groups: dict[int, Scores] = {}
    for rank in sorted(set(state.ranks.values())):
        if _personal(federation, state):
            own = [_own(federation, state, client) for client in clients if state.ranks[client] == rank]
            if own:
                groups[rank] = _mean(own)
        else:
            member = next(client for client in sorted(state.ranks) if state.ranks[client] == rank)
            groups[rank] = score(federation, read_out(state, member, federation.method), federation.test)
    return groups


def _personal(federation: Federation, state: ServerState) -> bool:
    return bool(federation.parts(max(state.round, 1)).keeps)


def _own(federation: Federation, state: ServerState, client: str) -> Scores:
    return score(federation, personalise(state, client, read_out(state, client, federation.method)), federation.test)


def _mean(scores: Sequence[Scores]) -> Scores:
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}
