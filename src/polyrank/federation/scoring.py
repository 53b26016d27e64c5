"""The scoring round: every client trains once, and the rank policy makes ranks of the validation losses."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from polyrank.aggregation import Download
from polyrank.core.state import ServerState
from polyrank.federation.evaluation import score
from polyrank.federation.job import job
from polyrank.federation.round import nbytes, read_outs
from polyrank.federation.setup import Federation
from polyrank.tasks.task import LOSS

log = logging.getLogger(__name__)

Scores = MutableMapping[str, Mapping[str, float]]
"""Validation losses of all clients after a scoring round, by a checksum of all that they depend on."""


def score_clients(
    federation: Federation, state: ServerState, tell: Callable[[int, int], None], known: Scores
) -> tuple[ServerState, dict[str, Any]]:  # Any: plain JSON values
    """The state with its final ranks, and what clients.json holds; without a policy that scores the ranks stay.

    Nothing is aggregated. What is in ``known`` is not trained again, and what was trained is added to it.
    ``tell`` is told how many clients of how many are done.
    """
    table: dict[str, dict[str, Any]] = {
        client: {
            "rank": state.ranks[client],
            "examples": len(federation.examples[client]),
            **({"labels": federation.label_counts(client)} if federation.labels else {}),
            "group": federation.partition.groups.get(client),
        }
        for client in federation.clients
    }
    traffic = {"bytes/up": 0, "bytes/down": 0}
    if federation.validation is not None and len(federation.config.ranks.levels) > 1:
        parts = federation.parts(1)
        downloads = read_outs(state, federation.clients, federation.method)
        for sent in downloads.values():
            traffic["bytes/down"] += nbytes(sent.adapter, parts.receives, sent.base_change)
            # all that is trained, whatever stays with clients later: the server scores the whole model
            traffic["bytes/up"] += nbytes(sent.adapter, parts.trains)
        key = _key(federation, downloads)
        if key not in known:
            known[key] = _losses(federation, state, downloads, tell)
            if moved := federation.engine.traffic():
                traffic = dict(zip(traffic, moved, strict=True))
        ranks = federation.policy.assign(state.ranks, known[key])
        state = replace(state, ranks=ranks, scales=federation.scales(ranks))
        for client, loss in known[key].items():
            table[client] |= {"rank": ranks[client], "validation_loss": loss}
    return state, {"clients": table, "scoring": traffic}


def _losses(
    federation: Federation, state: ServerState, downloads: Mapping[str, Download], tell: Callable[[int, int], None]
) -> dict[str, float]:
    """Every client's validation loss after one local round."""
    assert federation.validation is not None
    losses: dict[str, float] = {}
    jobs = [job(federation, state, client, 0, downloads[client]) for client in federation.clients]
    for update in federation.engine.train(jobs):
        loss = score(federation, Download(update.adapter), federation.validation)[LOSS]
        if not math.isfinite(loss):
            log.warning("scoring: %s has the validation loss %s and comes last", update.client, loss)
        losses[update.client] = loss
        tell(len(losses), len(jobs))
    for client, reason in federation.engine.failures().items():
        log.warning("scoring: %s gave no update and comes last: %s", client, reason)
        losses[client] = math.inf
    return losses


def _key(federation: Federation, downloads: Mapping[str, Download]) -> str:
    """A checksum of all that the scores depend on: configuration, data and model, what is trained, and from where."""
    config = federation.config
    sections = (config.model, config.data, config.task, config.federation, config.ranks, config.training)
    settings = (*sections, sorted(federation.digests.items()))
    digest = hashlib.sha256(repr((settings, sorted(federation.parts(1).trains))).encode())
    for download in {id(sent): sent for sent in downloads.values()}.values():
        for name, tensor in download.adapter.tensors():
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
