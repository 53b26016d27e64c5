"""A run's progress in Flower's log, a line per round."""

from __future__ import annotations

from collections.abc import Mapping
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Any

from flwr.common import log

from polyrank.runs.listener import NOT_TRACKED, Listener

if TYPE_CHECKING:
    from polyrank.core.state import ServerState
    from polyrank.federation.setup import Federation


class Progress(Listener):
    """Writes to the log that ``flwr run --stream`` and ``flwr log`` show."""

    def __init__(self) -> None:
        self._rounds = 0

    def on_start(self, federation: Federation, state: ServerState) -> None:
        self._rounds = federation.config.federation.rounds
        ranks = list(state.ranks.values())
        counted = ", ".join(f"{ranks.count(rank)} of rank {rank}" for rank in sorted(set(ranks)))
        log(INFO, "read %s", federation.rows_read)
        log(INFO, "%d clients: %s; aggregation %s", len(ranks), counted, federation.method.info.name)
        if state.round:
            log(INFO, "going on after round %d", state.round)

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        shown = [
            f"{name} {metrics[key]:.4f}"
            for key, name in (
                *(("test/accuracy", "test accuracy"), ("test/loss", "test loss")),
                *(("train/loss", "training loss"), ("own/accuracy", "accuracy at the sites")),
            )
            if isinstance(metrics.get(key), float)
        ]
        clients = f"{len(metrics['clients']) - len(metrics['dropped'])} of {len(metrics['clients'])} clients"
        log(
            INFO,
            "[ROUND %d/%d] %s in %.1f s",
            metrics["round"],
            self._rounds,
            ", ".join([*shown, clients]),
            metrics["seconds"],
        )

    def on_end(self, summary: Mapping[str, Any]) -> None:
        for line in summary.get(NOT_TRACKED, ()):
            log(WARNING, "not tracked: %s", line)
