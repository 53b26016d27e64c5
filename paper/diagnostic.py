"""The seed paper's one-round diagnostic: what aggregation does to a client of high rank and good data.

The balanced clients have the highest rank, which is whom the validation policy picked in every run of these studies;
the first cohort with one of them trains once from the initial adapter. That client's model is measured as it came from
its own training, and as it is read out after zero padding and after replication, each with its own head and with the
averaged one: the paper does not say which.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.machine import machine

from polyrank import aggregation
from polyrank.aggregation import Download
from polyrank.config import Config
from polyrank.core.adapter import Adapter
from polyrank.federation.evaluation import score
from polyrank.federation.job import job
from polyrank.federation.round import cohort, personalise, read_out, read_outs
from polyrank.federation.setup import build
from polyrank.federation.tree import aggregate

ORACLE = ("ranks.policy=fixed", "ranks.by_name={balanced=20, skewed=5}")
METHODS = ("zero_padding", "replication", "owner_mean", "tempered", "flexlora")


def measure(chosen: argparse.Namespace) -> list[dict[str, Any]]:  # Any: plain JSON values
    """One row per data set and seed, from the results where they are there."""
    from paper.run import load_config

    path = chosen.results / "diagnostic.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    for data in chosen.studies or ("ag_news", "dbpedia"):
        for seed in chosen.seeds or (0, 1, 2):
            if any(row["data"] == data and row["seed"] == seed for row in rows):
                continue
            texts = (
                ("data.size=200", "training.epochs=3") if data == "ag_news" else ("data.size=100", "training.epochs=5")
            )
            own = [f"federation.seed={seed}", *ORACLE, *texts, *chosen.set]
            config = load_config(data, own, chosen.model, chosen.data)
            rows.append({"data": data, "seed": seed, **one_round(config)})
            print(rows[-1], flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return rows


def one_round(config: Config) -> dict[str, Any]:
    """Accuracy of the first high-rank client of a cohort: alone, and after each method."""
    federation = build(config)
    try:
        state = federation.initial_state()
        options, measure = federation.config.federation, federation.task.primary.name
        high = max(state.ranks.values())
        members: tuple[str, ...] = ()
        number = 0
        while not any(state.ranks[client] == high for client in members):
            number += 1
            members = cohort(federation.clients, options.participation, options.seed, number)
        sent = read_outs(state, members, federation.method)
        jobs = [job(federation, state, name, number, personalise(state, name, sent[name])) for name in members]
        updates = list(federation.engine.train(jobs))
        own = next(update for update in updates if state.ranks[update.client] == high)
        result: dict[str, Any] = {
            "client": own.client,
            "group": federation.partition.groups[own.client],
            "high_in_cohort": sum(state.ranks[client] == high for client in members),
            "alone": score(federation, Download(own.adapter), federation.test)[measure],
        }
        for name in METHODS:
            method = aggregation.build(name)
            after = aggregate(state, updates, method, uniform=False, local_head=False).state
            back = read_out(replace(after, ranks=state.ranks), own.client, method)
            with_own_head = Download(Adapter(back.adapter.modules, own.adapter.dense), back.base_change)
            result[name] = score(federation, back, federation.test)[measure]
            result[f"{name}, own head"] = score(federation, with_own_head, federation.test)[measure]
        return result
    finally:
        federation.close()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, in per cent."""
    names = [f"{name}{head}" for head in ("", ", own head") for name in METHODS]
    lines = [f"| data | seed | its data | high-rank clients in the cohort | alone | {' | '.join(names)} |"]
    lines.append("|---" * (5 + len(names)) + "|")
    for row in rows:
        values = " | ".join(f"{100 * row[name]:.1f}" for name in ("alone", *names))
        lines.append(f"| {row['data']} | {row['seed']} | {row['group']} | {row['high_in_cohort']} | {values} |")
    return "\n".join(lines)
