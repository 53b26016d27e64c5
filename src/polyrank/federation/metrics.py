"""What a round and a run come to, in numbers: the lines of metrics.jsonl and the content of summary.json."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from polyrank.aggregation import Download
from polyrank.aggregation.diagnostics import diagnose, owners_weight, row_energy
from polyrank.errors import RunFolderError
from polyrank.federation.evaluation import score_global
from polyrank.federation.round import RoundResult, mean_base_change, nbytes
from polyrank.federation.setup import Federation
from polyrank.state import ClientUpdate, ServerState
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
    if after.round % options.every == 0 or after.round == federation.config.federation.rounds:
        scores = score_global(federation, after, clients)
        metrics |= {f"test/{name}": value for name, value in asdict(scores).items()}
    metrics |= {
        "train/loss": _mean([u.metrics["loss"] for u in updates if u.client not in result.dropped]),
        "bytes/up": sum(nbytes(u.adapter, parts.sends) for u in updates),
        "bytes/down": sum(nbytes(s.adapter, parts.receives, s.base_change) for s in sent.values()),
        "rows/owners_weight": owners_weight(result.used, after.adapter.rank),
        "rows/energy": row_energy(after.adapter),
        "clients": clients,
        "dropped": dict(result.dropped),
        **{f"aggregation/{name}": value for name, value in result.metrics.items()},
    }
    if federation.policy.prunes:
        metrics["ranks"] = {client: state.ranks[client] for client in clients}
    shared = "b" not in parts.keeps  # where B stays with the clients there is no global product to measure
    if options.diagnostics and shared and any(update.weight > 0 for update in result.used):
        started = {client: download.adapter for client, download in sent.items()}
        change = mean_base_change(state, result.used, sent)
        metrics |= diagnose(result.used, started, change, after, min(state.ranks.values()))
    return metrics


def summarise(lines: Sequence[Mapping[str, Any]], clients: Mapping[str, Any], federation: Federation) -> dict[str, Any]:
    """What a run came to: best and last metrics, bytes and seconds in all, and the best constant answer.

    Args:
        lines: of metrics.jsonl.
        clients: the content of clients.json.
        federation: what was run.

    Raises:
        RunFolderError: no line has test metrics, because the file was cut or the run was shortened on resuming.
    """
    evaluated = [line for line in lines if "test/accuracy" in line]
    if not evaluated:
        raise RunFolderError("metrics.jsonl has no evaluated round to sum up; raise federation.rounds to go on")
    labels = federation.test.labels
    constant = max(int((labels == label).sum()) for label in range(len(federation.labels))) / len(labels)
    best = max(evaluated, key=lambda line: line["test/accuracy"])
    last = evaluated[-1]
    booked = {phase: round(sum(line.get(f"time/{phase}", 0.0) for line in lines), 2) for phase in PHASES}
    return {
        "method": federation.config.aggregation.method,
        "rounds": len(lines),
        "clients": len(federation.clients),
        "test/accuracy": last["test/accuracy"],
        "test/macro_f1": last["test/macro_f1"],
        "test/loss": last["test/loss"],
        "best/accuracy": best["test/accuracy"],
        "best/round": best["round"],
        "constant/accuracy": constant,
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
