"""Runs in trouble, recorded in ``benchmarks/results/faults.json``: ``python -m benchmarks.faults PART``.

- ``kills``: SIGKILL at 200 random moments of a run and its report; each goes on to the same adapter, bit for bit;
- ``disk``: each change of a file fails, the folder vanishes, the file system is full or becomes read-only, clocks jump;
- ``soak``: 2,000 rounds in one process, in which clients fail at random: memory, open files, metrics;
- ``deployment``: an hour of a Flower deployment whose nodes come and go, and whose server is killed (extra ``flower``).

Each trial is written down when it is over, and a part that was stopped goes on where it was; what was wrong is tried
again. What is wrong is listed under ``wrong``; the command ends with 1 then. It needs Linux; file systems are mounted
where one may.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "faults.json"

Record = dict[str, Any]  # JSON values


def kills(done: Record, scratch: Path, save: Callable[[Record], None], share: float) -> Record:
    """See the module; ``share`` of the trials."""
    from benchmarks.trouble.forked import preload
    from benchmarks.trouble.kills import TWO, WAYS, Whole, summary, trial, whole

    marks, undisturbed = preload(), dict[str, Whole]()
    trials = _good(done)
    known = {(one["way"], one["number"]) for one in trials}
    for way, count in WAYS.items():
        for at in range(round(count * share)):
            if (way, at) in known:
                continue
            name, how = ("two processes", TWO) if way == "workers" else ("one process", ())
            if name not in undisturbed:
                undisturbed[name] = whole(scratch, name, how)
            trials.append(trial(way, at, undisturbed[name], marks, scratch))
            print(json.dumps(trials[-1]), flush=True)
            save({**summary(trials), "each": trials})
    return {**summary(trials), "each": trials}


def disk(done: Record, scratch: Path, save: Callable[[Record], None], share: float) -> Record:
    """See the module; every ``1 / share``-th trial."""
    from benchmarks.trouble.disk import plan, shown, summary, trial
    from benchmarks.trouble.forked import preload
    from benchmarks.trouble.kills import whole

    preload()
    undisturbed = whole(scratch, "for the disk", ())
    trials = _good(done)
    known = {(one["kind"], one["at"]) for one in trials}
    found = {"changes_of_files_in_a_run": undisturbed.events, "each": trials}
    for kind, at in plan(undisturbed, scratch)[:: max(1, round(1 / share))]:
        if (kind, at) in known:
            continue
        trials.append(trial(kind, at, undisturbed, scratch))
        print(shown(trials[-1]), flush=True)
        save({**summary(trials), **found})
    return {**summary(trials), **found}


def _good(done: Record) -> list[Record]:
    """The trials that are recorded, but for those that were wrong: they are made again."""
    return [one for one in done.get("each", ()) if not one["wrong"]]


def soak(_done: Record, scratch: Path, _save: Callable[[Record], None], share: float) -> Record:
    """See the module; ``share`` of the rounds."""
    from benchmarks.trouble.soak import soak as run

    return run(round(2000 * share), scratch / "soak")


def deployment(_done: Record, scratch: Path, _save: Callable[[Record], None], share: float) -> Record:
    """See the module; ``share`` of the hour."""
    from benchmarks.trouble.coming import coming

    return coming(3600 * share, scratch / "deployment")


PARTS = {"kills": kills, "disk": disk, "soak": soak, "deployment": deployment}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=sorted(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the trials or rounds")
    parser.add_argument("--anew", action="store_true", help="forget the trials that are recorded")
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    recorded = json.loads(chosen.result.read_text(encoding="utf-8")) if chosen.result.is_file() else {}
    wrong = 0
    for part in chosen.parts:
        before, start = {} if chosen.anew else recorded.get(part, {}), time.monotonic()
        took = before.get("took_seconds", 0)

        def save(found: Record, part: str = part, took: float = took, start: float = start) -> None:
            recorded["machine"] = machine()
            recorded[part] = {**found, "took_seconds": round(took + time.monotonic() - start)}
            chosen.result.parent.mkdir(parents=True, exist_ok=True)
            chosen.result.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")

        with tempfile.TemporaryDirectory(prefix="polyrank-faults-") as scratch:
            found = PARTS[part](before, Path(scratch), save, chosen.share)
        save(found)
        print(json.dumps({key: value for key, value in found.items() if key != "each"}, indent=1))
        wrong += bool(found.get("wrong"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
