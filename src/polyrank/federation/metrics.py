"""What a round and a run come to, in numbers: the lines of metrics.jsonl and the content of summary.json."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyrank.aggregation import Download, Parts
from polyrank.aggregation.diagnostics import diagnose, row_energy
from polyrank.core.errors import RunFolderError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.round import in_whole, mean_base_change, read_outs
from polyrank.federation.server import Server
from polyrank.federation.traffic import down, travelled, up
from polyrank.federation.tree import RoundResult
from polyrank.tasks import Task
from polyrank.tasks.metric import BY_KIND, OWN, TEST, best, is_evaluated
from polyrank.training.profile import PHASES
from polyrank.training.work import Moved, Outcome


@dataclass(frozen=True, eq=False)
class Played:
    """What happened in a round.

    Args:
        before: the server's state.
        sent: the cohort's read-outs.
        outcomes: of all who were asked.
        updates: of those that trained, bad ones included.
        result: of aggregating them.
        owned: share of the round's weight that owns each rank index.
    """

    before: ServerState
    sent: Mapping[str, Download]
    outcomes: Sequence[Outcome]
    updates: Sequence[ClientUpdate]
    result: RoundResult
    owned: Sequence[float]


def untrained_line(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The line of round 0: what was measured before anything was trained."""
    return {"round": 0, **named(scores)}


def line_of(server: Server, played: Played, scores: Mapping[str, Any] | None) -> dict[str, Any]:
    """A round's line of metrics.jsonl, but for its seconds.

    Args:
        server: whose round it is.
        played: the round.
        scores: of the state after it, where that was evaluated.
    """
    outcomes, result, sent = played.outcomes, played.result, played.sent
    after, meter = result.state, server.accountant
    private = {} if meter is None else {"privacy/epsilon": round(meter.epsilon(after.round), 6)}
    if server.hides:
        return _hidden_line(server, played, scores) | private
    parts, clients = server.parts(after.round), list(sent)
    good = [outcome for outcome in outcomes if outcome.client not in result.dropped]
    elsewhere = [outcome.seconds for outcome in good if outcome.seconds is not None]
    moved = travelled(outcome.moved for outcome in outcomes) or _would_travel(parts, played.updates, sent)
    metrics: dict[str, Any] = {
        "round": after.round,
        **named(scores or {}),
        "train/loss": _mean([outcome.metrics["loss"] for outcome in good if "loss" in outcome.metrics]),
        **({"train/seconds": max(elsewhere)} if elsewhere else {}),
        **own_scores(good, server.site.task),
        "bytes/up": moved.up,
        "bytes/down": moved.down,
        "rows/owners_weight": list(played.owned),
        "rows/energy": row_energy(after.adapter),
        "clients": clients,
        "dropped": dict(result.dropped),
        **{f"aggregation/{name}": value for name, value in result.metrics.items()},
        **private,
    }
    if server.policy.prunes:
        metrics["ranks"] = {client: played.before.ranks[client] for client in clients}
    shared = "b" not in parts.keeps  # where B stays with the clients there is no global product to measure
    if server.config.evaluation.diagnostics and shared and any(update.weight > 0 for update in result.received):
        started = {client: download.adapter for client, download in sent.items()}
        change = mean_base_change(result.received, sent)
        received = [in_whole(update, started[update.client]) for update in result.received]
        metrics |= diagnose(received, started, change, after, min(played.before.ranks.values()))
    return metrics


def _hidden_line(server: Server, played: Played, scores: Mapping[str, Any] | None) -> dict[str, Any]:
    """A round's line that says nothing of those who came: bytes are those that are expected."""
    before, after = played.before, played.result.state
    parts, share = server.parts(after.round), server.config.federation.participation
    sent = read_outs(before, before.ranks, server.method)
    moved = [(up(parts, one.adapter), down(parts, one)) for one in sent.values()]
    return {
        "round": after.round,
        **named(scores or {}),
        "bytes/up": round(share * sum(sends for sends, _ in moved)),
        "bytes/down": round(share * sum(receives for _, receives in moved)),
        "rows/energy": row_energy(after.adapter),
        "clients": [],
        "dropped": {},
        **{f"aggregation/{name}": value for name, value in played.result.metrics.items()},
    }


def named(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores as a round's line has them."""
    return {f"{TEST}{name}": value for name, value in scores.items()}


def own_scores(outcomes: Sequence[Outcome], task: Task) -> dict[str, Any]:
    """What clients measured on test sets of their own, of what they were sent: means in which each client counts 1.

    Of the task's primary metric also each client's value.

    Nothing where nobody has one.
    """
    names = sorted({name for outcome in outcomes for name in outcome.scores})
    found = {name: [one.scores[name] for one in outcomes if name in one.scores] for name in names}
    primary = task.primary.name
    by_client = {one.client: one.scores[primary] for one in outcomes if primary in one.scores}
    return {f"{OWN}{name}": _mean(values) for name, values in found.items()} | (
        {f"{OWN}{primary}_by_client": by_client} if by_client else {}
    )


def _would_travel(parts: Parts, updates: Sequence[ClientUpdate], sent: Mapping[str, Download]) -> Moved:
    """What would travel if clients were elsewhere and kept what is theirs."""
    return Moved(
        up=sum(up(parts, update.adapter) for update in updates),
        down=sum(down(parts, download) for download in sent.values()),
    )


def summarise(
    lines: Sequence[Mapping[str, Any]],
    clients: Mapping[str, Any],
    server: Server,
    untrained: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a run came to: best and last metrics, bytes and seconds in all, and the best constant answer.

    Args:
        lines: of metrics.jsonl.
        clients: the content of clients.json.
        server: whose run it was.
        untrained: the line of round 0, where there is one.

    Raises:
        RunFolderError: no line has test metrics, because the file was cut or the run was shortened on resuming.
    """
    evaluated, task = [line for line in lines if is_evaluated(line)], server.site.task
    if not evaluated:
        raise RunFolderError("metrics.jsonl has no evaluated round to sum up; raise federation.rounds to go on")
    primary, key = task.primary, f"{TEST}{task.primary.name}"
    first = best(primary, [primary.measured(line[key]) for line in evaluated])
    last = evaluated[-1]
    booked = {phase: round(sum(line.get(f"time/{phase}", 0.0) for line in lines), 2) for phase in PHASES}
    return {
        "method": server.config.aggregation.method,
        "rounds": len(lines),
        "clients": len(server.clients),
        **{key: last[key] for key in _tested(task, last)},
        f"best/{primary.name}": evaluated[first][key],
        "best/round": evaluated[first]["round"],
        **({key.replace(TEST, "untrained/"): untrained[key] for key in _tested(task, untrained)} if untrained else {}),
        **{f"constant/{name}": value for name, value in server.site.constant(hidden=server.hides).items()},
        **({"constant/of": "training" if server.site.examples and not server.hides else "test"} if task.writes else {}),
        "bytes/up": sum(line["bytes/up"] for line in lines) + clients["scoring"]["bytes/up"],
        "bytes/down": sum(line["bytes/down"] for line in lines) + clients["scoring"]["bytes/down"],
        "seconds": round(sum(line["seconds"] for line in lines), 2),
        **_throughput(lines, server),
        **_spent(lines, server),
        "dropped": sum(len(line["dropped"]) for line in lines),
        "memory/peak": peak_memory(),
        **({"time": booked} if any(booked.values()) else {}),
    }


def _spent(lines: Sequence[Mapping[str, Any]], server: Server) -> dict[str, Any]:
    """What a private run cost, and by which noise."""
    if server.accountant is None:
        return {}
    options = server.config.privacy
    about = {name: getattr(options, name) for name in ("model", "clip", "noise", "delta", "sampling", "budget")}
    return {"privacy/epsilon": lines[-1]["privacy/epsilon"], "privacy": about}


def _throughput(lines: Sequence[Mapping[str, Any]], server: Server) -> dict[str, float]:
    """Tokens that clients learned from, padding not counted, and how many a second; nothing where others hold them."""
    examples, epochs = server.site.examples, server.config.training.epochs
    cohorts = [client for line in lines for client in line["clients"]]
    if server.hides or not all(client in examples for client in cohorts):
        return {}
    tokens = epochs * sum(int(examples[client].lengths.sum()) for client in cohorts)
    return {"tokens": tokens, "tokens/second": round(tokens / max(sum(line["seconds"] for line in lines), 1e-9), 1)}


def _tested(task: Task, line: Mapping[str, Any]) -> list[str]:
    """Keys of the task's metrics in a line, in their order; then those by kind."""
    keys = [f"{TEST}{metric.name}" for metric in task.metrics]
    return keys + [f"{key}{BY_KIND}" for key in keys if f"{key}{BY_KIND}" in line]


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
