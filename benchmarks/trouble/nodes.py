"""A deployment on Flower of real processes, over TLS with keys, whose nodes come and go for as long as one likes.

Every node is killed, or ended as a supervisor does it, at random moments, and started again after a while; one is
always left. Rounds go on meanwhile, with the clients that are there. In the end the run is stopped.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import psutil

from benchmarks.deployment import Deployment, Process, Processes, wait
from benchmarks.tiny import TINY
from polyrank.runs import checkpoint

NODES = 3
SMALL = (
    *(text for text in TINY if not text.startswith(("federation.", "ranks."))),
    *("federation.clients=3", "federation.participation=1.0", "ranks.policy=fixed", "ranks.levels=[2, 4, 8]"),
    *("ranks.counts=[1, 1, 1]",),
)
UP, DOWN = (20.0, 60.0), (5.0, 40.0)
"""Seconds for which a node stays, and for which it is away, at least and at most."""
LONGEST = 100_000


class Coming:
    """One node that comes and goes.

    Args:
        deployment: that it belongs to.
        number: of it.
        random: when and how.
    """

    def __init__(self, deployment: Deployment, number: int, random: Random) -> None:
        self.deployment, self.number, self.random = deployment, number, random
        self.process: Process | None = None
        self.next = 0.0
        self.start()

    def start(self) -> None:
        """Come; the SuperLink may refuse it for a minute after it was killed, so that it has to come again."""
        config = f'client="client-{self.number:02d}" partition-id={self.number}'
        self.process = self.deployment.node(self.number, config)
        self.next = time.monotonic() + self.random.uniform(*UP)

    @property
    def there(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def go(self) -> str:
        """Leave, in one of two ways; which one."""
        assert self.process is not None
        way = self.random.choice(("killed", "ended"))
        (self.deployment.processes.kill if way == "killed" else self.deployment.processes.end)(self.process)
        self.next = time.monotonic() + self.random.uniform(*DOWN)
        return way


def come_and_go(minutes: float, folder: Path, seed: int = 0) -> dict[str, Any]:
    """So many minutes of it, and what was seen."""
    random, went = Random(seed), Counter[str]()
    with Processes(folder / "logs") as processes:
        deployment = Deployment(folder, processes)
        for number in range(NODES):
            deployment.register(number)
        nodes = [Coming(deployment, number, random) for number in range(NODES)]
        wait(lambda: deployment.online() == NODES, 180, "not all nodes were online")
        out = folder / "run"
        app = deployment.init(folder / "app", out, [*SMALL, f"federation.rounds={LONGEST}"])
        number = deployment.run(app, min_nodes=1, repeats=0, timeout=60.0)
        wait(lambda: _lines(out), 240, f"no first round\n{processes.output()}")
        memory: list[int] = []
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            time.sleep(1)
            memory.append(_server_memory())
            for node in nodes:
                if time.monotonic() < node.next:
                    continue
                if not node.there:
                    went["came"] += 1
                    node.start()
                elif sum(one.there for one in nodes) > 1:
                    went[node.go()] += 1
        status, lines = deployment.status(number), _lines(out)
        deployment.flwr("stop", str(number), "there")
    saved = checkpoint.load(out / "checkpoint")
    asked = sum(len(line["clients"]) for line in lines)
    return {
        "minutes": minutes,
        "rounds": len(lines),
        "status_before_it_was_stopped": status,
        "nodes": dict(went),
        "clients_asked": asked,
        "dropped": sum(len(line["dropped"]) for line in lines),
        "by_clients_in_a_round": dict(sorted(Counter(len(line["clients"]) for line in lines).items())),
        "metrics_complete": [line["round"] for line in lines] == list(range(1, len(lines) + 1)),
        "checkpoint_round": saved.round,
        "finite": saved.adapter.first_not_finite() is None,
        "server_rss_first_last_most": [memory[0], memory[-1], max(memory)] if memory else [],
    }


def _lines(out: Path) -> list[dict[str, Any]]:  # Any: JSON values
    path = out / "metrics.jsonl"
    whole = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [line for line in map(json.loads, whole) if line["round"] > 0]


def _server_memory() -> int:
    """Bytes of the ServerApp's process, while there is one."""
    for process in psutil.Process().children(recursive=True):
        try:
            if any("flwr-serverapp" in part for part in process.cmdline()):
                return int(process.memory_info().rss)
        except psutil.Error:
            continue
    return 0
