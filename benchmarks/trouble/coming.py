"""A deployment whose nodes come and go: real processes over TLS with keys, disturbed at random moments.

Five SuperNodes of ranks 20, 20, 5, 5 and 2; all but the last have a daemon that holds base and data. Each is there for
some minutes, and then it is killed, ended, frozen (as a machine that sleeps, or has lost its network) or, with a
daemon, loses that; it comes back some time later, as under systemd. The fourth comes after a quarter of the time for
the first time. After half of it the SuperLink is killed and started again with its database, after three quarters the
ServerApp, whose run is begun anew with ``resume=true``. At the end the run is stopped, and two more rounds with all
nodes end it.

Watched: every round in metrics.jsonl, once; who was missing in a round, with a reason; nobody who was there throughout
a round; memory and open files of the server's processes; processes that stay.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGSTOP
from typing import Any

import psutil

from benchmarks.deployment import Deployment, Process, Processes, wait
from benchmarks.trouble.use import Use
from polyrank.runs import checkpoint
from polyrank.runs.folder import RunFolder

RANKS = (20, 20, 5, 5, 2)
LATE = 3
"""The node that is not there at the beginning."""
THERE, AWAY, FROZEN = 240.0, 60.0, 45.0
"""Mean seconds; a node is there for 20 at least."""
SETTLED = 30.0
"""Seconds after which a node that was started, or a daemon, counts as there: it says who it is, and loads its data."""
TIMEOUT = 300.0
SHORTEST = 300.0
"""Seconds of a process's life below which the slope of its memory says nothing."""
SETTINGS = (
    *(f"federation.clients={len(RANKS)}", "federation.participation=1.0", "federation.rounds=100000"),
    *("ranks.policy=fixed", "ranks.levels=[2, 5, 20]", "ranks.counts=[1, 2, 2]", "data.partition=iid"),
    *("data.limit_train=200", "data.limit_test=100", "data.max_tokens=16", "model.config.num_hidden_layers=1"),
    *("training.engine=batched", "training.clients_per_pass=1", "training.workers=1", "training.lanes=1"),
    *("training.precision=float32", "training.attention=sdpa", "evaluation.every=5", "evaluation.rank_groups=false"),
    "evaluation.diagnostics=false",
)


@dataclass
class Node:
    """A SuperNode, with its daemon, under somebody who starts again what has ended.

    Args:
        deployment: that it belongs to.
        number: of its key, client and rank.
        random: of its coming and going.
        begins: the moment at which it comes first; moments are of ``time.monotonic``.
    """

    deployment: Deployment
    number: int
    random: Random
    begins: float
    process: Process | None = None
    daemon: Process | None = None
    there: list[tuple[float, float]] = field(default_factory=list)
    next: tuple[float, str] = (math.inf, "")
    since: float = math.inf
    happened: Counter[str] = field(default_factory=Counter)

    @property
    def client(self) -> str:
        """Its name."""
        return f"client-{self.number:02}"

    def look(self, now: float, *, disturb: bool) -> None:
        """Start what has ended, or do what is due."""
        if now < self.begins:
            return
        if self.daemon is None and self.number < len(RANKS) - 1:
            folder = self.deployment.folder / f"site{self.number}"
            self.daemon = self.deployment.site(folder / "site.sock", SETTINGS)
        if self.process is None or self.process.poll() is not None:
            if self.process is not None:
                self.happened["not let in yet"] += now - self.since < SETTLED
            own = f"partition-id={self.number}"
            if self.daemon is not None:
                own = f'site-socket="{self.deployment.folder / f"site{self.number}" / "site.sock"}" evaluate=false'
            config = f'client="{self.client}" lora-rank={RANKS[self.number]} {own}'
            self.process, self.since = self.deployment.node(self.number, config), now
            kinds = ["killed", "ended", "frozen"] + ["daemon killed"] * (self.daemon is not None)
            self.next = now + 20 + self.random.expovariate(1 / THERE), self.random.choice(kinds)
        elif now >= self.next[0] and (disturb or self.next[1] == "thaws"):
            self._disturbed(now)

    def _disturbed(self, now: float) -> None:
        assert self.process is not None
        processes, kind = self.deployment.processes, self.next[1]
        self.happened[kind] += 1
        if kind == "thaws":
            processes.signal(self.process, SIGCONT)
            self.since, self.next = now, (now + 20 + self.random.expovariate(1 / THERE), "killed")
            return
        self.there.append((self.since, now))
        self.since = math.inf
        away = self.random.expovariate(1 / (FROZEN if kind == "frozen" else AWAY))
        if kind == "frozen":
            processes.signal(self.process, SIGSTOP)
            self.next = now + away, "thaws"
        elif kind == "daemon killed":
            assert self.daemon is not None
            processes.kill(self.daemon)
            self.daemon, self.since = None, now
            self.next = now + 20 + self.random.expovariate(1 / THERE), "ended"
        else:
            processes.kill(self.process) if kind == "killed" else processes.end(self.process)
            self.process, self.begins = None, now + away

    def times(self) -> Sequence[tuple[float, float]]:
        """From when to when it was there, as of now."""
        return [*self.there, (self.since, math.inf)]

    def was_there(self, start: float, end: float) -> bool:
        """From well before a moment to another one."""
        return any(since + SETTLED < start and end < until for since, until in self.times())

    def was_away(self, start: float, end: float) -> bool:
        """All the time between."""
        return not any(since < end and start < until for since, until in self.times())


def told(use: Use) -> dict[str, Any]:
    """What a process used, in MB and hours; nothing of one that lived shortly."""
    if use.half < 2 or use.at[-1] - use.at[0] < SHORTEST:
        return {}
    return {
        "minutes": round((use.at[-1] - use.at[0]) / 60, 1),
        "mb_start_half_end": [round(memory / 1e6, 1) for memory in use.start_half_end],
        "mb_per_hour_of_second_half": round(3600 * use.slope / 1e6, 1),
        "open_files_half_end_most": [use.files[use.half], use.files[-1], max(use.files)],
    }


class Hour:
    """The deployment and what is seen of it.

    Args:
        seconds: of coming and going.
        folder: for everything.
        processes: that it becomes.
    """

    def __init__(self, seconds: float, folder: Path, processes: Processes) -> None:
        self.seconds, self.out = seconds, folder / "run"
        self.deployment = Deployment(folder, processes, nodes=len(RANKS), durable=True)
        for i in range(len(RANKS)):
            self.deployment.register(i)
        self.app = self.deployment.init(folder / "app", self.out, SETTINGS)
        self.start = time.monotonic()
        begins = [math.inf if i == LATE else 0.0 for i in range(len(RANKS))]
        self.nodes = [Node(self.deployment, i, Random(i), begins[i]) for i in range(len(RANKS))]
        self.uses = defaultdict[tuple[str, int], Use](Use)
        self.rounds: list[tuple[float, float]] = []
        self.begun, self.run, self.notes = 0, -1, list[str]()

    def begin(self, **more: Any) -> None:
        """The run, or the rest of it."""
        settings = {"min_nodes": len(RANKS) - 1, "timeout": TIMEOUT, "repeats": 3, "resume": self.begun > 0, **more}
        self.run = self.deployment.run(self.app, **settings)
        self.begun += 1

    def look(self, *, disturb: bool) -> None:
        """At everything, once."""
        now = time.monotonic()
        for node in self.nodes:
            node.look(now, disturb=disturb)
        lines = len(RunFolder(self.out).read_metrics()) if (self.out / "metrics.jsonl").is_file() else 0
        while len(self.rounds) < lines:
            self.rounds.append((self.rounds[-1][1] if self.rounds else now, now))
        for name, process in (("SuperLink", psutil.Process(self.deployment.link.pid)), *self._apps()):
            with suppress(psutil.Error):
                self.uses[name, process.pid].look(now, process)

    def _apps(self) -> Iterator[tuple[str, psutil.Process]]:
        for process in psutil.process_iter(["cmdline", "environ"]):
            line, home = process.info["cmdline"] or (), (process.info["environ"] or {}).get("FLWR_HOME", "")
            if any("flwr-serverapp" in part for part in line) and home.startswith(str(self.deployment.folder)):
                yield "ServerApp", process

    def until(self, so: Callable[[], object], seconds: float, why: str, *, disturb: bool = False) -> None:
        """Look until something is so."""

        def looked() -> object:
            self.look(disturb=disturb)
            time.sleep(1.0)
            return so()

        wait(looked, seconds, why)

    def over(self) -> bool:
        """Whether Flower says that the run has ended."""
        return self.deployment.status(self.run).startswith("finished")

    def played(self) -> None:
        """All of it."""
        self.until(lambda: self.deployment.online() >= len(RANKS) - 1, 300, "the first nodes did not come")
        self.begin()
        self.until(lambda: self.rounds, 300, "no first round")
        self.start, todo = time.monotonic(), [self._link_dies, self._app_dies]
        for node in self.nodes:
            node.next = self.start + 20 + node.random.expovariate(1 / THERE), node.next[1]
        self.nodes[LATE].begins = self.start + self.seconds / 4
        asked = 0.0
        while (now := time.monotonic() - self.start) < self.seconds:
            self.look(disturb=True)
            if todo and now > self.seconds * (1 - len(todo) / 4):
                todo.pop(0)()
            if now > asked + 30:  # a command of Flower's takes a second of a processor
                asked = now
                if self.over():
                    self.notes.append(f"the run ended after {now:.0f} s and was begun again")
                    self.begin()
            time.sleep(1.0)
        self.until(lambda: self.deployment.online() == len(RANKS), 400, "not all nodes came back")
        time.sleep(SETTLED)
        self.deployment.flwr("stop", str(self.run), "there")
        self.until(self.over, 120, "the run did not stop")
        last = len(RunFolder(self.out).read_metrics())
        self.begin(min_nodes=len(RANKS), **{"federation.rounds": last + 2})
        self.until((self.out / "summary.json").is_file, 600, "the last rounds did not end")
        self.look(disturb=False)

    def _link_dies(self) -> None:
        self.deployment.processes.kill(self.deployment.link)
        time.sleep(5)
        self.deployment.start_link()
        self.notes.append(f"SuperLink killed after round {len(self.rounds)}")

    def _app_dies(self) -> None:
        self.notes.append(f"ServerApp killed after round {len(self.rounds)}")
        for _, process in self._apps():
            process.kill()
        self.until(self.over, 300, "the run is not said to have failed")
        self.begin()

    def told(self) -> dict[str, Any]:
        """What was seen, and what of it is wrong."""
        lines = RunFolder(self.out).read_metrics()
        wrong = [] if [line["round"] for line in lines] == list(range(1, len(lines) + 1)) else ["rounds are missing"]
        for line, (start, end) in zip(lines, self.rounds, strict=True):
            for node in self.nodes:
                reason = line["dropped"].get(node.client)
                if reason is not None and node.was_there(start, end):
                    wrong.append(f"round {line['round']}: {node.client} was there and is dropped: {reason}")
                if reason is None and node.was_away(start, end) and node.client in line["clients"]:
                    wrong.append(f"round {line['round']}: {node.client} was away and counts")
        wrong += [
            f"round {line['round']}: not all are back: {line['dropped']}" for line in lines[-2:] if line["dropped"]
        ]
        state = checkpoint.load(self.out / "checkpoint")
        if not all(bool(value.isfinite().all()) for _, value in state.adapter.tensors()):
            wrong.append("the adapter is not finite")
        measured = [line["test/loss"] for line in lines if "test/loss" in line]
        why = Counter(kind_of(reason) for line in lines for reason in line["dropped"].values())
        happened: Counter[str] = sum((node.happened for node in self.nodes), Counter())
        whole = sum(not line["dropped"] for line in lines)
        return {
            "seconds": round(self.rounds[-1][1] - self.rounds[0][0]),
            "rounds": len(lines),
            "rounds_of_all_nodes": whole,
            "fewest_replies": min(len(line["clients"]) - len(line["dropped"]) for line in lines),
            "happened": dict(sorted(happened.items())),
            "notes": self.notes,
            "runs_begun": self.begun,
            "missing": dict(why.most_common()),
            "use": [{"of": name, **used} for (name, _), use in self.uses.items() if (used := told(use))],
            "test_loss_first_last": [measured[0], measured[-1]],
            "wrong": wrong,
        }


def kind_of(reason: str) -> str:
    """A reason without the numbers and paths of its case."""
    return re.sub(r"\d[\d.]*", "N", re.sub(r"/\S+", "PATH", reason))[:100]


def coming(seconds: float, folder: Path) -> dict[str, Any]:
    """So many seconds, and what was seen."""
    folder.mkdir(parents=True)
    with Processes(folder / "logs") as processes:
        try:
            hour = Hour(seconds, folder, processes)
            hour.played()
        except (TimeoutError, RuntimeError) as error:
            return {"wrong": [f"{error}"], "output": processes.output()}
        found = hour.told()
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"]) if mine(process, folder)]
    found["wrong"] += [f"still runs: {line}" for line in left]
    return found


def mine(process: psutil.Process, folder: Path) -> bool:
    """Whether a process has this folder on its command line."""
    line: Sequence[str] = process.info["cmdline"] or ()
    return any(str(folder) in part for part in line)
