"""A disk that fails at each change of a file, and clocks that jump: one clear line, and the same bits afterwards.

- ``errors``: from one change on every one fails (full, read-only, not permitted), for each change of a run;
- ``vanished``: the run folder is moved away before one change, and put back afterwards;
- ``full``: a real file system in memory of ever more KiB, which is made larger afterwards (where one can be mounted);
- ``frozen``: the same one becomes read-only before one change, and writable again;
- ``clocks``: the time jumps by a year ahead and back, at random calls, for each of Python's clocks.
"""

from __future__ import annotations

import datetime
import json
import random as randoms
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.trouble.events import ERRORS, FileEvents, failing
from benchmarks.trouble.forked import fork
from benchmarks.trouble.kills import Whole, commands
from benchmarks.trouble.same import brought_to_its_end, differences, left_over

YEAR = 365.25 * 86400


def trial(kind: str, at: int, undisturbed: Whole, scratch: Path) -> dict[str, Any]:
    """One run in one kind of trouble, and what came of it.

    Args:
        kind: of `kinds`.
        at: the change of a file, or the KiB of the file system, or the seed of the clocks.
        undisturbed: the run that nothing happened to.
        scratch: a folder.
    """
    with KINDS[kind.partition(":")[0]](kind, at, scratch) as (folder, prepare, mend):
        forked = fork(commands(folder, ())[:1], scratch / "said", prepare)
        code, said = forked.wait(), forked.said
        found: dict[str, Any] = {"kind": kind, "at": at, "code": code, "said": _last(said)}
        wrong = "" if code == 0 or (code == 2 and "error: " in said and "Traceback" not in said) else said[-600:]
        mend()
        done = ["nothing"]
        if not wrong and (code or differences_of(undisturbed, folder)):

            def call(arguments: Sequence[str]) -> tuple[int, str]:
                again = fork(commands(folder, (), *arguments)[:1], scratch / "said")
                return again.wait(), again.said

            done, wrong = brought_to_its_end(call)
        wrong = wrong or ", ".join([*differences(undisturbed.folder, folder), *left_over(folder)])
        return {**found, "went_on": done, "wrong": wrong}


def differences_of(undisturbed: Whole, folder: Path) -> bool:
    """Whether a run that said nothing of trouble is another one, or not all there."""
    try:
        return bool(differences(undisturbed.folder, folder))
    except (OSError, ValueError):
        return True


Trouble = Iterator[tuple[Path, Callable[[], object], Callable[[], object]]]


@contextmanager
def _errors(kind: str, at: int, scratch: Path) -> Trouble:
    folder = _new(scratch / "run")
    yield folder, partial(FileEvents, folder, at, failing(ERRORS[kind.partition(":")[2]]), lasting=True), _nothing


@contextmanager
def _vanished(_kind: str, at: int, scratch: Path) -> Trouble:
    folder, away = _new(scratch / "run"), _new(scratch / "away")

    def act(_what: str) -> None:
        if folder.exists():
            folder.rename(away)

    def mend() -> None:
        if away.exists():
            shutil.rmtree(folder, ignore_errors=True)
            away.rename(folder)

    yield folder, partial(FileEvents, folder, at, act), mend


@contextmanager
def _full(_kind: str, at: int, scratch: Path) -> Trouble:
    with mounted(scratch / "mounted", at) as place:
        yield place / "run", _nothing, partial(_mount, "remount,size=64m", place)


@contextmanager
def _frozen(_kind: str, at: int, scratch: Path) -> Trouble:
    with mounted(scratch / "mounted", 65536) as place:

        def act(_what: str) -> None:
            _mount("remount,ro", place)

        yield place / "run", partial(FileEvents, place / "run", at, act), partial(_mount, "remount,rw", place)


@contextmanager
def _clocks(_kind: str, at: int, scratch: Path) -> Trouble:
    yield _new(scratch / "run"), partial(jumping, at), _nothing


KINDS = {"errors": _errors, "vanished": _vanished, "full": _full, "frozen": _frozen, "clocks": _clocks}


def plan(undisturbed: Whole, scratch: Path, clocks: int = 20) -> list[tuple[str, int]]:
    """All trials: each kind at each change of a file; file systems from nothing to what a run takes, in 24 steps."""
    changes = range(undisturbed.events)
    found = [(f"errors:{name}", at) for name in ERRORS for at in changes] + [("vanished", at) for at in changes]
    if can_mount(scratch):
        files = [path for path in undisturbed.folder.rglob("*") if path.is_file() and path.suffix != ".html"]
        needed = sum(path.stat().st_size for path in files) // 1024 + 1
        found += [("full", 4 * (1 + needed * step // (4 * 24))) for step in range(24)]
        found += [("frozen", at) for at in changes]
    return found + [("clocks", seed) for seed in range(clocks)]


def jumping(seed: int) -> None:
    """Let Python's clocks jump ahead and back, for good, in this process."""
    random = randoms.Random(seed)

    def jumps(real: Callable[[], float], unit: float) -> Callable[[], float]:
        shift = 0.0

        def clock() -> float:
            nonlocal shift
            if random.random() < 0.02:
                shift = random.choice((-YEAR, -3600.0, -1e-3, 0.0, 3600.0, YEAR)) * unit
            return type(real())(real() + shift)

        return clock

    for name, unit in (("time", 1.0), ("perf_counter", 1.0), ("monotonic", 1.0), ("process_time", 1.0)):
        setattr(time, name, jumps(getattr(time, name), unit))
    time.time_ns = jumps(time.time_ns, 1e9)  # type: ignore[assignment]  # whole numbers stay such
    moment = jumps(lambda: 0.0, 1.0)

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(1.7e9 + moment(), tz)

    datetime.datetime = Jumping  # type: ignore[misc]


@contextmanager
def mounted(place: Path, kib: int) -> Iterator[Path]:
    """A file system of so many KiB in memory."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0700", "polyrank", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def can_mount(scratch: Path) -> bool:
    """Whether this process may mount one."""
    try:
        with mounted(scratch / "probe", 64):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _mount(options: str, place: Path) -> None:
    subprocess.run(["mount", "-o", options, str(place)], check=True)


def _new(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _nothing() -> None:
    """Nothing is to be done."""


def _last(said: str) -> str:
    """The line of an error."""
    return next((line for line in reversed(said.splitlines()) if "error" in line), "")[:300]


def summary(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many runs said what, by kind, and what was wrong."""
    kinds = dict.fromkeys(one["kind"] for one in trials)
    return {
        "trials": len(trials),
        "by_kind": {
            kind: {
                "trials": sum(one["kind"] == kind for one in trials),
                "refused": sum(one["kind"] == kind and one["code"] == 2 for one in trials),
                "ended": sum(one["kind"] == kind and one["code"] == 0 for one in trials),
            }
            for kind in kinds
        },
        "wrong": [one for one in trials if one["wrong"]],
        "same": sum(not one["wrong"] for one in trials),
    }


def shown(found: Mapping[str, Any]) -> str:
    """One trial, for people."""
    return json.dumps({key: found[key] for key in ("kind", "at", "code", "said", "went_on", "wrong")})
