"""A federation of three SuperNodes of ranks 20, 5 and 2 over TLS with keys, in real processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from benchmarks.deployment import Deployment, Process, Processes, wait

from polyrank.core.state import ServerState
from polyrank.runs import checkpoint
from polyrank.runs.folder import RunFolder

RANKS = (20, 5, 2)
"""As the policy gives them, so that a local run has them too."""
CLIENTS = ["client-00", "client-01", "client-02"]
SMALL = [
    *("federation.rounds=2", "federation.clients=3", "federation.participation=1.0", "ranks.policy=fixed"),
    *("ranks.levels=[2, 5, 20]", "ranks.counts=[1, 1, 1]", "data.limit_train=300", "data.limit_test=100"),
    *("training.engine=batched", "training.clients_per_pass=1", "training.workers=1"),
    *("training.precision=float32", "training.attention=sdpa", "model.config.num_hidden_layers=1"),
]


class Federation:
    """A deployment with its three nodes online; the first two have a daemon that holds base and data.

    Args:
        folder: for everything.
        processes: that it becomes.
        durable: as `Deployment`.
    """

    def __init__(self, folder: Path, processes: Processes, *, durable: bool = False) -> None:
        self.folder, self.processes = folder, processes
        self.deployment = Deployment(folder, processes, durable=durable)
        self.sockets = [folder / f"site{i}" / "site.sock" for i in range(2)]
        self.sites = [self.start_site(i) for i in range(2)]
        for i in range(3):
            self.deployment.register(i)
        self.nodes = [self.start_node(i) for i in range(3)]
        self.wait(lambda: self.deployment.online() == 3, 300, "three nodes were not online")
        self.wait(lambda: all(socket.exists() for socket in self.sockets), 300, "the sites did not load")

    def start_site(self, i: int) -> Process:
        return self.deployment.site(self.sockets[i], SMALL)

    def start_node(self, i: int) -> Process:
        own = f'site-socket="{self.sockets[i]}" evaluate=false' if i < len(self.sockets) else f"partition-id={i}"
        return self.deployment.node(i, f'client="{CLIENTS[i]}" lora-rank={RANKS[i]} {own}')

    def restart_node(self, i: int) -> None:
        """Until it is let in: for a minute after its end the SuperLink takes the old one to be there."""

        def stays() -> bool:
            self.nodes[i] = self.start_node(i)
            time.sleep(5)
            return self.nodes[i].poll() is None

        self.wait(stays, 300, f"node {i} was not let in again")

    def begin(self, name: str, *sets: str, **settings: Any) -> tuple[Path, int]:
        """A run; its folder and its number."""
        out, app = self.folder / name, self.folder / f"{name}-app"
        if not app.exists():
            self.deployment.init(app, out, [*SMALL, *sets])
        return out, self.deployment.run(app, min_nodes=3, repeats=0, **{"timeout": 100.0, **settings})

    def ended(self, out: Path, seconds: float = 240) -> None:
        self.wait((out / "summary.json").is_file, seconds, "the run did not end")

    def wait(self, what: Callable[[], object], seconds: float, why: str) -> None:
        try:
            wait(what, seconds, why)
        except (TimeoutError, RuntimeError) as error:
            pytest.fail(f"{error}\n{self.processes.output()}")


def lines(out: Path) -> list[dict[str, Any]]:
    """Of metrics.jsonl, as far as they have come."""
    return RunFolder(out).read_metrics()


def state(out: Path) -> ServerState:
    return checkpoint.load(out / "checkpoint")


def same(ours: ServerState, theirs: ServerState) -> None:
    """The same round, ranks and, to 1e-5, adapter."""
    assert ours.round == theirs.round
    assert ours.ranks == theirs.ranks == dict(zip(CLIENTS, RANKS, strict=True))
    for (name, a), (_, b) in zip(ours.adapter.tensors(), theirs.adapter.tensors(), strict=True):
        assert float((a - b).abs().max()) < 1e-5, name


def running(name: str, above: int | None = None) -> list[psutil.Process]:
    """Processes of a command, of all or below one."""
    top = psutil.Process(above or os.getpid())
    found = []
    for process in top.children(recursive=True):
        try:
            if any(name in part for part in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
