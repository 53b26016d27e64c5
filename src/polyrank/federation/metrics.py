"""What a round and a run come to, in numbers: the lines of metrics.jsonl and the content of summary.json."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from polyrank.aggregation import Download, Parts
from polyrank.aggregation.diagnostics import diagnose, owners_weight, row_energy
from polyrank.core.errors import RunFolderError
from polyrank.core.state import OWN, ClientUpdate, ServerState
from polyrank.federation.evaluation import score_global
from polyrank.federation.round import mean_base_change, nbytes
from polyrank.federation.setup import Federation
from polyrank.federation.tree import RoundResult
from polyrank.tasks import Task
from polyrank.tasks.metric import TEST, best, is_evaluated
from polyrank.training.profile import PHASES


def round_metrics(
    federation: Federation,
    state: ServerState,
    updates: Sequence[ClientUpdate],
    result: RoundResult,
    sent: Mapping[str, Download],
) -> dict[str, Any]:
    """A round's line of metrics.jsonl, but for its seconds.

    Args:
        federation: what is run.
        state: before the round.
        updates: what came back, bad ones included.
        result: of aggregating them.
        sent: the cohort's read-outs.
    """
    after, options = result.state, federation.config.evaluation
    parts = federation.parts(after.round)
    clients = list(sent)
    metrics: dict[str, Any] = {"round": after.round}
    if is_due(after.round, options.every, federation.config.federation.rounds):
        metrics |= test_metrics(federation, after, clients)
    good = [update for update in updates if update.client not in result.dropped]
    elsewhere = [update.metrics["seconds"] for update in good if "seconds" in update.metrics]
    up, down = federation.engine.traffic() or _traffic(parts, updates, sent)
    metrics |= {
        "train/loss": _mean([update.metrics["loss"] for update in good]),
        **({"train/seconds": max(elsewhere)} if elsewhere else {}),
        **own_scores(good, federation.task),
        "bytes/up": up,
        "bytes/down": down,
        "rows/owners_weight": owners_weight(result.received, after.adapter.rank),
        "rows/energy": row_energy(after.adapter),
        "clients": clients,
        "dropped": dict(result.dropped),
        **{f"aggregation/{name}": value for name, value in result.metrics.items()},
    }
    if federation.policy.prunes:
        metrics["ranks"] = {client: state.ranks[client] for client in clients}
    shared = "b" not in parts.keeps  # where B stays with the clients there is no global product to measure
    if options.diagnostics and shared and any(update.weight > 0 for update in result.received):
        started = {client: download.adapter for client, download in sent.items()}
        change = mean_base_change(state, result.received, sent)
        metrics |= diagnose(result.received, started, change, after, min(state.ranks.values()))
    return metrics


def test_metrics(federation: Federation, after: ServerState, clients: Sequence[str]) -> dict[str, float]:
    """What a round's line says of the test set: scores of the state after it, with the cohort where models differ."""
    return {f"{TEST}{name}": value for name, value in score_global(federation, after, clients).items()}


def is_due(number: int, every: int, rounds: int) -> bool:
    """Whether a run of so many rounds evaluates after this one."""
    return number % every == 0 or number == rounds


def own_scores(updates: Sequence[ClientUpdate], task: Task) -> dict[str, Any]:
    """What clients measured on test sets of their own, of what they were sent: means in which each client counts 1.

    Of the task's primary metric also each client's value.

    Nothing where nobody has one.
    """
    names = sorted({name for update in updates for name in update.metrics if name.startswith(OWN)})
    found = {name: [u.metrics[name] for u in updates if name in u.metrics] for name in names}
    primary = f"{OWN}{task.primary.name}"
    by_client = {u.client: u.metrics[primary] for u in updates if primary in u.metrics}
    return {name: _mean(values) for name, values in found.items()} | (
        {f"{primary}_by_client": by_client} if by_client else {}
    )


def _traffic(parts: Parts, updates: Sequence[ClientUpdate], sent: Mapping[str, Download]) -> tuple[int, int]:
    """What would travel, up and down, if clients were elsewhere and kept what is theirs."""
    return (
        sum(nbytes(update.adapter, parts.sends) for update in updates),
        sum(nbytes(download.adapter, parts.receives, download.base_change) for download in sent.values()),
    )


def summarise(lines: Sequence[Mapping[str, Any]], clients: Mapping[str, Any], federation: Federation) -> dict[str, Any]:
    """What a run came to: best and last metrics, bytes and seconds in all, and the best constant answer.

    Args:
        lines: of metrics.jsonl.
        clients: the content of clients.json.
        federation: what was run.

    Raises:
        RunFolderError: no line has test metrics, because the file was cut or the run was shortened on resuming.
    """
    evaluated, task = [line for line in lines if is_evaluated(line)], federation.task
    if not evaluated:
        raise RunFolderError("metrics.jsonl has no evaluated round to sum up; raise federation.rounds to go on")
    primary, key = task.primary, f"{TEST}{task.primary.name}"
    first = best(primary, [primary.measured(line[key]) for line in evaluated])
    last = evaluated[-1]
    booked = {phase: round(sum(line.get(f"time/{phase}", 0.0) for line in lines), 2) for phase in PHASES}
    return {
        "method": federation.config.aggregation.method,
        "rounds": len(lines),
        "clients": len(federation.clients),
        **{f"{TEST}{metric.name}": last[f"{TEST}{metric.name}"] for metric in task.metrics},
        f"best/{primary.name}": evaluated[first][key],
        "best/round": evaluated[first]["round"],
        **{f"constant/{name}": value for name, value in task.constant(federation.test).items()},
        "bytes/up": sum(line["bytes/up"] for line in lines) + clients["scoring"]["bytes/up"],
        "bytes/down": sum(line["bytes/down"] for line in lines) + clients["scoring"]["bytes/down"],
        "seconds": round(sum(line["seconds"] for line in lines), 2),
        "dropped": sum(len(line["dropped"]) for line in lines),
        "memory/peak": peak_memory(),
        **({"time": booked} if any(booked.values()) else {}),
    }


def peak_memory() -> int | None:
    """The most bytes that this process has held so far, processes that it waited for not counted; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
