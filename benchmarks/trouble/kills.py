"""SIGKILL at random moments of a run and of its report; each goes on to the same adapter, bit for bit.

Moments are uniform over the seconds of an undisturbed run, or uniform over its changes of files. A third of the runs
are killed a second time, while they go on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psutil

from benchmarks.tiny import sets
from benchmarks.trouble.events import FileEvents
from benchmarks.trouble.forked import Forked, Marks, fork
from benchmarks.trouble.same import brought_to_its_end, differences, left_over

ROUNDS = ("federation.rounds=3",)
TWO = ("training.workers=2", "federation.participation=1.0")
WAYS = {"time": 126, "files": 66, "workers": 5, "process": 3}
"""How moments are chosen, and how many are: by seconds; by changes of files; by seconds, with two processes that
train; by seconds, of a process that loads all by itself."""


@dataclass(frozen=True)
class Whole:
    """A run that nobody killed.

    Args:
        folder: of it.
        seconds: that it and its report took.
        events: changes of files below its folder.
    """

    folder: Path
    seconds: float
    events: int


def commands(folder: Path, overrides: Sequence[str], *arguments: str) -> list[list[str]]:
    """A run and its report."""
    run = ["run", *sets([*ROUNDS, *overrides]), "--out", str(folder), *arguments]
    return [run, ["report", str(folder), "--out", str(folder / "report.html")]]


def whole(scratch: Path, name: str, overrides: Sequence[str]) -> Whole:
    """Run it undisturbed, twice: once with nothing counted, for its seconds."""
    folder, counted = scratch / f"whole {name}", scratch / f"counted {name}"
    start = time.monotonic()
    _must(fork(commands(folder, overrides), scratch / "said"))
    seconds = time.monotonic() - start
    count = scratch / "count"

    def prepare() -> None:
        events = FileEvents(counted, None)
        exit_now = os._exit

        def ending(code: int) -> None:
            count.write_text(str(events.count), encoding="ascii")
            exit_now(code)

        os._exit = ending  # type: ignore[assignment]  # the last that a fork does

    _must(fork(commands(counted, overrides), scratch / "said", prepare))
    if wrong := differences(folder, counted):
        raise RuntimeError(f"two undisturbed runs differ in {wrong}")
    return Whole(folder, seconds, int(count.read_text(encoding="ascii")))


def trial(way: str, number: int, undisturbed: Whole, marks: Marks, scratch: Path) -> dict[str, Any]:
    """One run that is killed, and what came of it."""
    random, folder = Random(f"kills {way} {number}"), scratch / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    overrides = TWO if way == "workers" else ()
    found: dict[str, Any] = {"way": way, "number": number}
    if way == "files":
        at = random.randrange(undisturbed.events)
        stage, found["event"] = _killed_at_event(folder, at, marks, scratch), at
    else:
        alone = way == "workers" and random.random() < 0.5
        found["second"] = round(random.uniform(0, undisturbed.seconds), 3)
        stage, group = _killed_after(found["second"], way, folder, overrides, marks=marks, scratch=scratch, alone=alone)
        if alone:
            found["orphans"] = _orphans(group)
    found["stage"] = stage
    again = random.uniform(0, undisturbed.seconds) if way != "process" and random.random() < 1 / 3 else None

    def call(arguments: Sequence[str]) -> tuple[int, str]:
        nonlocal again
        if again is not None:
            marks.reset()
            second = fork(commands(folder, overrides, *arguments), scratch / "said")
            code = _wait_or_kill(second, again)
            again = None
            if code is not None:
                return code, second.said
        forked = fork(commands(folder, overrides, *arguments), scratch / "said")
        return forked.wait(), forked.said

    found["killed_again"] = again is not None
    found["went_on"], wrong = brought_to_its_end(call)
    wrong = wrong or ", ".join(differences(undisturbed.folder, folder))
    wrong = wrong or ", ".join(left_over(folder)) or ("" if (folder / "report.html").is_file() else "no report")
    return {**found, "wrong": wrong or ("orphans" if found.get("orphans") else "")}


def _killed_at_event(folder: Path, at: int, marks: Marks, scratch: Path) -> str:
    marks.reset()

    def die(_what: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    forked = fork(commands(folder, ()), scratch / "said", partial(FileEvents, folder, at, die))
    forked.wait()
    return marks.now


def _killed_after(
    seconds: float, way: str, folder: Path, overrides: Sequence[str], *, marks: Marks, scratch: Path, alone: bool
) -> tuple[str, int]:
    """The stage that it was in, and its group of processes."""
    if way == "process":
        run = [sys.executable, "-m", "polyrank", *commands(folder, overrides)[0]]
        process = subprocess.Popen(run, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "a process of its own", process.pid
    while True:
        marks.reset()
        forked = fork(commands(folder, overrides), scratch / "said")
        if _wait_or_kill(forked, seconds, group=not alone) is None:
            return marks.now, forked.pid
        shutil.rmtree(folder)  # it was over sooner than the undisturbed run
        seconds /= 2


def _wait_or_kill(forked: Forked, seconds: float, *, group: bool = True) -> int | None:
    """The exit code if it ended within the time; else it is killed."""
    code = forked.ended(seconds)
    if code is None:
        forked.kill(group=group)
        forked.wait()
    return code


def _orphans(group: int, seconds: float = 120) -> int:
    """Processes that outlive whoever started them by two minutes; less is fair, as they may still be loading."""
    end = time.monotonic() + seconds
    while (left := _of_group(group)) and time.monotonic() < end:
        time.sleep(0.1)
    for process in left:
        process.kill()
    return len(left)


def _of_group(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _must(forked: Forked) -> None:
    if code := forked.wait():
        raise RuntimeError(f"an undisturbed run ended with {code}: {forked.said[-2000:]}")


def summary(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many were killed where, and what was wrong."""
    return {
        "trials": len(trials),
        "by_way": dict(Counter(one["way"] for one in trials)),
        "by_stage": dict(Counter(one["stage"] for one in trials)),
        "killed_twice": sum(one["killed_again"] for one in trials),
        "went_on": dict(Counter(" then ".join(one["went_on"]) for one in trials)),
        "wrong": [one for one in trials if one["wrong"]],
    }
