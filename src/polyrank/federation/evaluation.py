"""What the server measures on held-out text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from polyrank.aggregation import Download
from polyrank.core.state import ServerState
from polyrank.federation.round import personalise, read_outs
from polyrank.federation.server import Server
from polyrank.federation.site import Scores


def score_global(server: Server, state: ServerState, clients: Sequence[str]) -> dict[str, Any]:
    """Test metrics of the global model: base, base change and adapter together; see `Site.by_kind`.

    Where anything stays with the clients (a local head, a personal B) there is no one global model: the mean over
    ``clients`` of what each of them has, whose models weigh 1 each.
    """
    if _personal(server, state):
        return dict(_mean(_own(server, state, clients)))
    return server.site.by_kind(state.adapter, state.base_change)


def first_model(server: Server, state: ServerState) -> Download:
    """The global model; where clients have models of their own, that of the first one of the last round."""
    if not _personal(server, state):
        return Download(state.adapter, state.base_change)
    (client, *_) = sorted(server.cohort(max(state.round, 1)))
    return personalise(state, client, read_outs(state, [client], server.method)[client])


def rank_groups(server: Server, state: ServerState, clients: Sequence[str]) -> dict[int, Scores]:
    """Test metrics of what each rank group starts from; of personal models, the mean over its own in ``clients``.

    Where rank indices are drawn for each client, a group's are those that its first member would be sent next.
    """
    groups: dict[int, Scores] = {}
    for rank in sorted(set(state.ranks.values())):
        if _personal(server, state):
            if own := [client for client in clients if state.ranks[client] == rank]:
                groups[rank] = _mean(_own(server, state, own))
        else:
            member = next(client for client in sorted(state.ranks) if state.ranks[client] == rank)
            start = read_outs(state, [member], server.method)[member]
            groups[rank] = server.site.measured(start.adapter, start.base_change, server.site.test)
    return groups


def _personal(server: Server, state: ServerState) -> bool:
    return bool(server.parts(max(state.round, 1)).keeps)


def _own(server: Server, state: ServerState, clients: Sequence[str]) -> list[Scores]:
    """Scores of the clients' own models."""
    starts = read_outs(state, clients, server.method)
    models = [personalise(state, client, start) for client, start in starts.items()]
    return [server.site.measured(model.adapter, model.base_change, server.site.test) for model in models]


def _mean(scores: Sequence[Scores]) -> Scores:
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}
