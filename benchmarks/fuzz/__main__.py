"""Hostile inputs for everything that is parsed: ``python -m benchmarks.fuzz`` tries 120 000 and records what became.

Results are in ``benchmarks/results/fuzz.json``: per target how many were tried, accepted and refused, the greatest
growth of memory by one input, the longest time of one, and findings: whatever was not a sane value or the error that
the entry point documents. Inputs of findings lie in ``--findings``; ``--replay TARGET FOLDER`` reads one again.

Each target runs in a process of its own, which may take no more than 2 GiB beyond what it began with, may write to its
scratch folder alone, and is ended where one input takes a minute. Inputs are made by `benchmarks.fuzz.mutate`, with
choices drawn by Hypothesis, or with ``--engine atheris`` by Atheris, which looks at what of our code an input reaches.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fuzz.engines import ENGINES, PREPARED
from benchmarks.machine import machine
from polyrank.core.files import write_whole

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "fuzz.json"
INPUTS = 120_000
MEMORY = 2 * 2**30
PATIENCE = 60.0
"""Seconds without a new input after which a process is ended: what hangs is no Python."""


def child(counts: dict[str, int], engine: str, seed: int, scratch: Path, findings: Path) -> None:
    """Try so many inputs of each target, in this process."""
    with PREPARED[engine]():
        from benchmarks.fuzz.flower import FLOWER
        from benchmarks.fuzz.session import Session
        from benchmarks.fuzz.targets import TARGETS
    from benchmarks.fuzz.watch import Watch, limit_memory

    logging.disable(logging.CRITICAL)
    watch, done = Watch(scratch / "tree"), dict[str, Any]()
    for name, count in counts.items():
        session = Session({**TARGETS, **FLOWER}[name], scratch / "tree", findings / name.replace(" ", "-"), watch)
        session.warm_up()
        limit_memory(MEMORY)

        def save(name: str = name, session: Session = session) -> None:
            done[name] = session.result()
            write_whole(scratch / "result.json", json.dumps(done), scratch / "result.writing")

        save()
        ENGINES[engine](session, count, seed, save)


def fuzz(counts: dict[str, int], engine: str, seed: int, findings: Path) -> dict[str, Any]:
    """Try so many inputs of each target, in a process of their own; one that dies is a finding, and the next goes on.

    Returns:
        Target -> what became of its inputs.
    """
    found = {name: _Tally() for name in counts}
    while left := {name: n for name, count in counts.items() if (n := count - found[name].inputs) > 0}:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=_fast()) as scratch:
            died = _watched(left, engine, seed, Path(scratch), findings)
            done = _read(Path(scratch) / "result.json")
            now = list(done)[-1] if done else next(iter(left))
            if died:
                findings.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-a", str(Path(scratch) / "tree"), str(findings / f"died-{seed}")], check=False)
        for name, one in done.items():
            found[name].add(one)
        if died:
            found[now].add({"inputs": 1, "findings": {died: 1}})
        elif not any(one["inputs"] for one in done.values()):
            raise RuntimeError(f"no input was made for {', '.join(left)}")
        found[now].seconds += time.perf_counter() - start
        seed += 1_000_003
    return {name: one.result() for name, one in found.items()}


@dataclass
class _Tally:
    """What became of a target's inputs, over all of its processes."""

    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    growth_bytes: int = 0
    slowest_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, one: dict[str, Any]) -> None:
        """Count what one process did."""
        self.inputs += one.get("inputs", 0)
        self.accepted += one.get("accepted", 0)
        self.refused.update(one.get("refused", {}))
        self.findings.update(one.get("findings", {}))
        self.growth_bytes = max(self.growth_bytes, one.get("growth_bytes", 0))
        self.slowest_seconds = max(self.slowest_seconds, one.get("slowest_seconds", 0.0))

    def result(self) -> dict[str, Any]:
        """The same for JSON."""
        counts = {"refused": dict(self.refused), "findings": dict(self.findings), "seconds": round(self.seconds, 1)}
        return {**vars(self), **counts}


def _watched(counts: dict[str, int], engine: str, seed: int, scratch: Path, findings: Path) -> str:
    """Run `child`; why it died, or nothing."""
    given = [json.dumps(counts), engine, str(seed), str(scratch), str(findings)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "POLYRANK_CACHE": "", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "benchmarks.fuzz", "--child", *given]
    with (scratch / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
        mark, since = -1.0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.05)
            if (now := _touched(scratch)) != mark:
                mark, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                process.kill()
                process.wait()
                return f"hung for {PATIENCE:g} s beyond Python's reach"
    if process.returncode == 0:
        return ""
    if process.returncode < 0:
        return f"died of {signal.Signals(-process.returncode).name}"
    raise RuntimeError((scratch / "said").read_text(encoding="utf-8", errors="replace")[-3000:])


def _touched(scratch: Path) -> float:
    """When the last input was written."""
    try:
        return (scratch / "tree" / "a" / "b" / "c" / "in").stat().st_mtime
    except OSError:
        return 0.0


def _fast() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # memory in the place of a disk


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    return found


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    rows = [
        "| parsed | inputs | accepted | refused | findings | most memory | slowest |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        counts = one["inputs"], one["accepted"], sum(one["refused"].values()), sum(one["findings"].values())
        memory = f"{one['growth_bytes'] / 2**20:.1f} MiB"
        rows.append(f"| {name} | {' | '.join(map(str, counts))} | {memory} | {one['slowest_seconds']:.2f} s |")
    return "\n".join(rows)


def shares(inputs: int, only: Sequence[str]) -> dict[str, int]:
    """How many inputs each target gets."""
    from benchmarks.fuzz.flower import FLOWER
    from benchmarks.fuzz.targets import TARGETS

    chosen = {name: one.share for name, one in {**TARGETS, **FLOWER}.items() if not only or name in only}
    return {name: math.ceil(inputs * share / sum(chosen.values())) for name, share in chosen.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line; what it recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--engine", choices=sorted(ENGINES), default="hypothesis")
    parser.add_argument("--only", nargs="*", default=[], help="names of targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--findings", type=Path, help="a folder for the inputs of findings")
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FOLDER"), help="read one input, with its traceback")
    parser.add_argument("--together", action="store_true", help="one process for all targets")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        counts, engine, seed, scratch, own = chosen.child
        child(json.loads(counts), engine, int(seed), Path(scratch), Path(own))
        return {}
    if chosen.replay:
        return replay(*chosen.replay)
    findings = chosen.findings or Path(tempfile.mkdtemp(prefix="polyrank-fuzz-"))
    counts = shares(chosen.inputs, chosen.only)
    results: dict[str, Any] = {}
    for portion in [counts] if chosen.together else [{name: count} for name, count in counts.items()]:
        results |= fuzz(portion, chosen.engine, chosen.seed, findings)
        for name in portion:
            print(table({name: results[name]}).splitlines()[-1], *results[name]["findings"], sep="\n  ", flush=True)
    recorded = _read(chosen.result)
    engines = {**recorded.get(chosen.engine, {}), **results}
    recorded |= {"machine": machine(), chosen.engine: engines}
    recorded[f"{chosen.engine}_inputs"] = sum(one["inputs"] for one in engines.values())
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    chosen.result.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    print(f"{sum(one['inputs'] for one in results.values())} inputs; inputs of findings: {findings}")
    return results


def replay(name: str, folder: str) -> dict[str, Any]:
    """Read one input as it is."""
    from benchmarks.fuzz.flower import FLOWER
    from benchmarks.fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory() as out:
        {**TARGETS, **FLOWER}[name].read(Path(folder), Path(out))
    return {}


if __name__ == "__main__":
    found = main()
    sys.exit(1 if any(one["findings"] for one in found.values()) else 0)
