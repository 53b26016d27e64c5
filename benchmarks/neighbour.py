"""What a busy neighbour costs: ``python -m benchmarks.neighbour``.

Rounds of the quickstart in one process of as many threads as there are cores, alone and beside processes that only
count: with threads that spin shortly before they sleep (what ``import polyrank`` settles), that sleep at once, and that
go on spinning. All six take turns; each time is that of a new process's rounds, the first left out, and the shortest of
the repeats counts.

Prints a table and writes ``benchmarks/results/neighbour.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.deployment import QUIET, sets
from benchmarks.machine import machine
from polyrank.core.threads import COUNT, SPIN, WAIT

RESULT = Path(__file__).parent / "results" / "neighbour.json"
JOB = (
    *("ranks.policy=random", "evaluation.every=100", "evaluation.rank_groups=false", "training.workers=1"),
    *("training.engine=batched", "training.clients_per_pass=2", "training.precision=float32"),
    *("training.attention=sdpa",),
)
"""Nothing is measured before the first round, and nothing evaluated but after the last."""
ABOUT = {
    "settled": "spin shortly and sleep then: what is settled",
    "passive": "sleep at once: `OMP_WAIT_POLICY=PASSIVE`",
    "active": "spin: `OMP_WAIT_POLICY=ACTIVE`",
}
POLICIES = tuple(ABOUT)
COUNTING = "i = 0\nwhile True: i += 1"


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that keep a core busy each."""
    started = [subprocess.Popen([sys.executable, "-c", COUNTING]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def seconds(policy: str, rounds: int, more: Sequence[str] = ()) -> float:
    """Per round, of a run in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in (WAIT, SPIN, COUNT)} | QUIET
    if policy != "settled":  # which nobody has to say
        environment[WAIT] = policy
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "polyrank", "run", *sets((*JOB, f"federation.rounds={rounds + 1}", *more))]
        subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, env=environment)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return sum(line["seconds"] for line in lines if line["round"] > 1) / rounds


def measure(rounds: int, repeats: int, busy: int, more: Sequence[str] = ()) -> dict[str, Any]:
    """Seconds of every repeat, and what neighbours cost each policy."""
    found: dict[str, dict[str, list[float]]] = {policy: {"alone": [], "beside": []} for policy in POLICIES}
    for _ in range(repeats):
        for policy in POLICIES:
            found[policy]["alone"].append(seconds(policy, rounds, more))
            with neighbours(busy):
                found[policy]["beside"].append(seconds(policy, rounds, more))
    times = {policy: min(own["beside"]) / min(own["alone"]) for policy, own in found.items()}
    return {"rounds": rounds, "neighbours": busy, "seconds": found, "times": times, "machine": machine()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, default=1, help="processes that only count")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the configuration")
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    found = measure(chosen.rounds, chosen.repeats, chosen.busy, chosen.set)
    chosen.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


def table(found: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"| threads | s per round alone | beside {found['neighbours']} busy process(es) | times |",
        "|---|---|---|---|",
    ]
    for policy, own in found["seconds"].items():
        times = found["times"][policy]
        lines.append(f"| {ABOUT[policy]} | {min(own['alone']):.2f} | {min(own['beside']):.2f} | {times:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
