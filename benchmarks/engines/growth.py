"""``growth``: rounds per hour and peak memory for ever more clients, larger cohorts and higher ranks.

Each point is a federation of the quickstart's backbone on random texts in a process of its own. Linux only.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines.work import COMMON, random_texts

POINTS: Mapping[str, Sequence[int]] = {
    "clients": (10, 100, 1_000, 10_000),
    "cohort": (10, 50, 200),
    "rank": (4, 16, 64, 128),
}


def measure(work: Path) -> list[dict[str, Any]]:
    """One process per point."""
    table = []
    for what, values in POINTS.items():
        for value in values:
            command = [sys.executable, "-m", "benchmarks.engines", "--point", what, str(value), "--work", str(work)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            table.append({what: value, **json.loads(done.stdout.splitlines()[-1])})
            print(table[-1], flush=True)
    return table


def point(what: str, value: int, work: Path) -> dict[str, Any]:
    """One federation, 8 texts per client (7 where there are 10,000), without evaluation."""
    import polyrank

    clients = {"clients": value, "cohort": 1000, "rank": 100}[what]
    size = value if what == "cohort" else 10
    rank = value if what == "rank" else 8
    texts = random_texts(work / f"texts-{clients}.csv", 8 * clients + 400, 20)
    settings = [
        *COMMON,
        *(f"data.train={texts}", "data.test_share=0.04", "data.size=8" if clients < 10_000 else "data.size=7"),
        *(f"federation.clients={clients}", f"federation.participation={size / clients}", "federation.rounds=8"),
        *(f"ranks.levels=[{rank}]", "evaluation.every=1000", "training.precision=float32", "training.workers=1"),
        *("training.attention=eager", "training.engine=batched", "training.clients_per_pass=10"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        polyrank.run(polyrank.load_config(overrides=settings), run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = statistics.median(line["seconds"] for line in lines[1:-1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds_per_round": seconds, "rounds_per_hour": 3600 / seconds, "peak_mib": peak}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = ["| what grows | | seconds per round | rounds per hour | peak MiB |", "|---|---|---|---|---|"]
    for r in rows:
        what = next(name for name in POINTS if name in r)
        cells = f"{r['seconds_per_round']:.3f} | {r['rounds_per_hour']:.0f} | {r['peak_mib']:.0f}"
        lines.append(f"| {what} | {r[what]} | {cells} |")
    return "\n".join(lines)
