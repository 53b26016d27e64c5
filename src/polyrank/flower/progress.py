"""A run's progress in Flower's log, a line per round."""

from __future__ import annotations

from collections.abc import Mapping
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Any

from flwr.common import log

from polyrank.runs.listener import NOT_TRACKED, Listener
from polyrank.tasks.metric import OWN, TEST

if TYPE_CHECKING:
    from polyrank.core.state import ServerState
    from polyrank.federation.server import Server


class Progress(Listener):
    """Writes to the log that ``flwr run --stream`` and ``flwr log`` show."""

    def __init__(self) -> None:
        self._rounds = 0
        self._shown: list[tuple[str, str]] = []

    def on_start(self, server: Server, state: ServerState) -> None:
        self._rounds = server.config.federation.rounds
        primary, curves = server.site.task.primary, [metric for metric in server.site.task.metrics if metric.curve]
        self._shown = [(f"{TEST}{metric.name}", f"test {metric.title}") for metric in curves]
        self._shown += [("train/loss", "training loss"), (f"{OWN}{primary.name}", f"{primary.title} at the sites")]
        ranks = list(state.ranks.values())
        counted = ", ".join(f"{ranks.count(rank)} of rank {rank}" for rank in sorted(set(ranks)))
        log(INFO, "read %s", server.rows_read)
        log(INFO, "%d clients: %s; aggregation %s", len(ranks), counted, server.method.info.name)
        if state.round:
            log(INFO, "going on after round %d", state.round)

    def on_untrained(self, metrics: Mapping[str, Any]) -> None:
        shown = [f"{name} {metrics[key]:.4f}" for key, name in self._shown if isinstance(metrics.get(key), float)]
        log(INFO, "before the first round: %s", ", ".join(shown))

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        shown = [f"{name} {metrics[key]:.4f}" for key, name in self._shown if isinstance(metrics.get(key), float)]
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
        if last := summary.get("stopped_early"):
            log(INFO, "ended early, after round %d of %d: evaluation.patience", last, self._rounds)
        for line in summary.get(NOT_TRACKED, ()):
            log(WARNING, "not tracked: %s", line)
