"""The scoring round: every client trains once, and the rank policy makes ranks of the validation losses."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from polyrank.aggregation import Download
from polyrank.core.adapter import Adapter
from polyrank.core.state import ServerState
from polyrank.federation.population import Population
from polyrank.federation.round import read_outs
from polyrank.federation.server import Server
from polyrank.federation.traffic import scoring, travelled
from polyrank.tasks.task import LOSS
from polyrank.training.work import Moved, Outcome

log = logging.getLogger(__name__)

Known = MutableMapping[str, Mapping[str, float]]
"""Validation losses of all clients after a scoring round, by a checksum of all that they depend on."""


def score_clients(
    server: Server, state: ServerState, tell: Callable[[int, int], None], known: Known
) -> tuple[ServerState, dict[str, Any]]:  # Any: plain JSON values
    """The state with its final ranks, and what clients.json holds; without a policy that scores the ranks stay.

    Nothing is aggregated. What is in ``known`` is not trained again, and what was trained is added to it.
    ``tell`` is told how many clients of how many are done.
    """
    population = server.population
    table: dict[str, dict[str, Any]] = {
        client: {
            "rank": state.ranks[client],
            **({} if server.hides else _held(population, client)),
            "group": population.groups.get(client),
        }
        for client in server.clients
    }
    traffic = Moved()
    if server.policy.scores_clients:
        downloads = read_outs(state, server.clients, server.method)
        traffic = scoring(server.parts(1), downloads.values())
        key = _key(server, downloads)
        if key not in known:
            known[key], moved = _losses(server, state, downloads, tell)
            traffic = moved or traffic
        ranks = server.policy.assign(state.ranks, known[key])
        state = replace(state, ranks=ranks, scales=server.scales(ranks))
        for client, loss in known[key].items():
            table[client] |= {"rank": ranks[client], **({} if server.hides else {"validation_loss": loss})}
    return state, {"clients": table, "scoring": {"bytes/up": traffic.up, "bytes/down": traffic.down}}


def _held(population: Population, client: str) -> dict[str, Any]:  # Any: plain JSON values
    """What a client's data come to."""
    labels, lost = population.labels[client], population.left_out.get(client)
    return {
        "examples": population.sizes[client],
        **({"labels": list(labels)} if labels else {}),
        **({"left_out": dict(lost)} if lost else {}),
    }


def _losses(
    server: Server, state: ServerState, downloads: Mapping[str, Download], tell: Callable[[int, int], None]
) -> tuple[dict[str, float], Moved | None]:
    """Every client's validation loss after one local round, and what travelled for it."""
    assert server.site.validation is not None
    losses: dict[str, float] = {}
    works = {client: server.work(state, client, 0, downloads[client]) for client in server.clients}
    outcomes: list[Outcome] = []

    def trained() -> Iterator[Adapter | None]:
        for outcome in server.engine.run(list(works.values())):
            outcomes.append(replace(outcome, trained=None))  # so that it need not be kept
            update = outcome.update(works[outcome.client])
            yield update.adapter if update else None

    scored = server.site.measured_each(trained(), server.site.validation)
    for number, scores in enumerate(scored):
        outcome = outcomes[number]
        loss = math.inf if scores is None else scores[LOSS]
        if scores is None:
            log.warning("scoring: %s gave no update and comes last: %s", outcome.client, outcome.problem)
        elif not math.isfinite(loss):
            log.warning("scoring: %s has the validation loss %s and comes last", outcome.client, loss)
        losses[outcome.client] = loss
        tell(len(losses), len(works))
    return losses, travelled([outcome.moved for outcome in outcomes])


def _key(server: Server, downloads: Mapping[str, Download]) -> str:
    """A checksum of all that the scores depend on: configuration, data and model, what is trained, and from where."""
    config = server.config
    sections = (config.model, config.data, config.task, config.federation, config.ranks, config.training)
    settings = (*sections, sorted(server.site.digests.items()))
    parts = server.parts(1)
    near = sorted(parts.trains & parts.sends) if config.training.proximal else []
    digest = hashlib.sha256(repr((settings, config.privacy, sorted(parts.trains), near)).encode())
    for download in {id(sent): sent for sent in downloads.values()}.values():
        digest.update(repr([factors.scale for factors in download.adapter.modules.values()]).encode())
        for name, tensor in download.adapter.tensors():
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
