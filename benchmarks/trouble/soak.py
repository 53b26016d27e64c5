"""Thousands of rounds of a tiny federation in one process, in which clients fail at random.

A client raises, sends values that are not finite, or is fine; the round counts without it. Watched: memory, by least
squares over the second half of the rounds; open files; whether metrics.jsonl has every round.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import psutil
import torch

from benchmarks.tiny import tiny
from benchmarks.trouble.use import Use
from polyrank.federation.server import Server
from polyrank.runs.listener import Listener
from polyrank.runs.runner import run
from polyrank.training.work import Engine, Outcome, Work

EVERY = 10
"""Rounds after which memory and files are looked at."""


class BrokenError(RuntimeError):
    """What a client raises that fails."""


@dataclass(frozen=True, eq=False)
class Flaky(Engine):
    """Clients of another engine, of which some fail, each by itself, as nodes elsewhere do.

    Args:
        engine: that trains the others.
        happened: how often each kind of failure came.
        share: of the clients that fail.
    """

    engine: Engine
    happened: Counter[str] = field(default_factory=Counter)
    share: float = 0.3

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """See `Engine`."""
        for work in works:
            random = Random(f"{work.client} {work.round}")
            try:
                if random.random() < self.share / 2:
                    raise BrokenError(f"{work.client} fails in round {work.round}")
                (outcome,) = self.engine.run([work])
            except BrokenError as error:
                self.happened["raised"] += 1
                outcome = Outcome(work.client, problem=str(error))
            if outcome.trained is not None and random.random() < self.share / 2:
                kind = random.choice(("NaN", "infinite"))
                self.happened[kind] += 1
                outcome = replace(outcome, trained=_spoilt(outcome.trained, kind))
            yield outcome


def _spoilt(trained: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    name = next(iter(trained))
    return {**trained, name: trained[name] * 0 + (math.nan if kind == "NaN" else math.inf)}


@dataclass
class Watch(Listener):
    """Looks at this process after some rounds."""

    use: Use = field(default_factory=Use)

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        """See `Listener`."""
        if metrics["round"] % EVERY == 0:
            self.use.look(metrics["round"], psutil.Process())


def soak(rounds: int, folder: Path) -> dict[str, Any]:
    """So many rounds, and what was seen."""
    torch.set_num_threads(1)
    watch, engines = Watch(), []

    def over(server: Server) -> Server:
        engines.append(Flaky(server.engine))
        return replace(server, engine=engines[0])

    config = tiny(f"federation.rounds={rounds}", "evaluation.every=100", "federation.clients=6")
    config = config.model_copy(update={"ranks": config.ranks.model_copy(update={"counts": [3, 3]})})
    summary = run(config, folder, listener=watch, over=over, overwrite=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    dropped = sum(len(line["dropped"]) for line in lines)
    return {
        "rounds": rounds,
        "clients_asked": sum(len(line["clients"]) for line in lines),
        "failures": dict(engines[0].happened),
        "dropped": dropped,
        "all_failures_named": dropped == sum(engines[0].happened.values()),
        "rss_bytes_per_round": round(watch.use.slope, 1),
        "rss_start_half_end": watch.use.start_half_end,
        "open_files": sorted(set(watch.use.files[1:])),
        "metrics_complete": [line["round"] for line in lines] == list(range(1, rounds + 1)),
        "final": {key: summary[key] for key in ("test/accuracy", "test/loss") if key in summary},
        "seconds": round(sum(line["seconds"] for line in lines), 1),
    }
