"""Peak memory of a command with all that it starts, daemons included; Linux only.

Every process that a command starts inherits a mark in its environment, and is known by it wherever it is in the tree.
A process that writes over its environment, as Ray's workers do, is known by its parent, or from before.

Reading a proportional set size makes the kernel walk all pages of a process, 60 ms for Flower's ten processes, which
would slow them down. So each look sums the resident set sizes, which cost nothing, and the proportional ones are read
only where that sum is higher than ever before.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "POLYRANK_BENCHMARK_MARK"
PROC = Path("/proc")
PAGE = os.sysconf("SC_PAGE_SIZE")
LEFT = 20.0
"""Seconds that daemons have to end by themselves."""
SEEN_OFTEN = 5
"""Looks after which a process without the mark is nobody's, and not looked at again."""
HIGHER = 1.005
"""By what the sum of resident sets must have grown to be worth a reading of the proportional ones."""


@dataclass(frozen=True)
class Finished:
    """What a command took.

    Args:
        code: exit status.
        seconds: from its start to its end.
        peak: highest sum over its processes of the proportional set size, in bytes.
        processes: how many there were at that moment.
    """

    code: int
    seconds: float
    peak: int
    processes: int


class Tree:
    """The living processes that carry a mark."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._ours: dict[int, str] = {}
        self._others: dict[int, int] = {}

    def living(self) -> list[int]:
        """Their numbers; zombies are left out."""
        parents: dict[int, int] = {}
        started: dict[int, str] = {}
        for name in os.listdir(PROC):  # noqa: PTH208  # twice a second
            if name.isdigit() and self._others.get(int(name), 0) < SEEN_OFTEN:
                with contextlib.suppress(OSError):
                    stat = (PROC / name / "stat").read_text(encoding="utf-8", errors="replace")
                    fields = stat.rpartition(")")[2].split()
                    if fields[0] not in "ZX":
                        parents[int(name)], started[int(name)] = int(fields[1]), fields[19]
        ours = {pid for pid, start in started.items() if self._ours.get(pid) == start or self._marked(pid)}
        more = ours
        while more:
            more = {pid for pid, parent in parents.items() if parent in ours} - ours
            ours = ours | more
        self._ours = {pid: started[pid] for pid in ours}
        for pid in started.keys() - ours:
            self._others[pid] = self._others.get(pid, 0) + 1
        return sorted(ours)

    def _marked(self, pid: int) -> bool:
        try:
            return self._mark in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended, or belongs to someone else
            return False


def rss(pid: int) -> int:
    """Resident set size of a process in bytes; 0 if it is gone."""
    try:
        return int((PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * PAGE
    except OSError:
        return 0


def pss(pid: int) -> int:
    """Proportional set size of a process in bytes; 0 if it is gone."""
    try:
        for line in (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def run(command: Sequence[str], environment: Mapping[str, str], log: Path, interval: float = 0.5) -> Finished:
    """Run a command to its end and watch it; what it starts is ended with it.

    Args:
        command: program and arguments.
        environment: all of it.
        log: file for what it prints.
        interval: seconds between two looks.
    """
    mark = secrets.token_hex(16)
    tree = Tree(mark)
    resident, peak, processes = 0, 0, 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal resident, peak, processes
        while not ended.wait(interval):
            living = tree.living()
            sizes = sum(rss(pid) for pid in living)
            if sizes > HIGHER * resident:
                resident, total = sizes, sum(pss(pid) for pid in living)
                if total > peak:
                    peak, processes = total, len(living)

    start = time.perf_counter()
    with log.open("wb") as file, _stopped(tree):
        process = subprocess.Popen(
            command,
            env={**environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
        finally:
            seconds = time.perf_counter() - start
            ended.set()
            watcher.join()
    return Finished(code, seconds, peak, processes)


@contextlib.contextmanager
def _stopped(tree: Tree) -> Iterator[None]:
    """Wait for daemons to end afterwards, and end those that do not."""
    try:
        yield
    finally:
        until = time.monotonic() + LEFT
        while tree.living() and time.monotonic() < until:
            time.sleep(0.2)
        for pid in tree.living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
