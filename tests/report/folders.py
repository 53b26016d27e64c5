"""Run folders as docs/run-folder.md describes them, written in a moment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyrank.config import parse
from polyrank.report.runs import Run, read
from polyrank.runs.agreement import Asked
from polyrank.runs.folder import RunFolder

LABELS = ("sport", "world", "science & technology")
MODULES = tuple(f"encoder.layer.{i}.{name}" for i in range(2) for name in ("query", "value"))
ABOUT = {
    "python": "3.11.7",
    "platform": "Linux",
    "cores": 2,
    "threads": 1,
    "gpu": None,
    "versions": {"torch": "2.13.0"},
}

DIGESTS = {"training texts": "40 rows, aa", "test texts": "10 rows, bb", "classes": "x, y", "model's weights": "cc"}


def write_run(  # noqa: PLR0917  # what a test changes
    folder: Path,
    method: str = "replication",
    seed: int = 0,
    rounds: int = 6,
    ranks: Sequence[int] = (2, 2, 2, 6),
    kept: float = 1.0,
    *,
    accuracy: float = 0.6,
    options: Mapping[str, Any] | None = None,
    labels: Sequence[str] = LABELS,
    planned: int | None = None,
    dropped: Mapping[int, Mapping[str, str]] | None = None,
    diagnosed: bool = True,
    old: bool = False,
    digests: Mapping[str, str] | None = None,
    data: Mapping[str, Any] | None = None,
    every: int = 1,
    task: str = "classification",
) -> Path:
    """A run whose accuracy rises towards ``accuracy`` and whose upper rank indices keep ``kept`` of their energy.

    ``planned`` more than ``rounds`` leaves it unfinished; ``dropped`` is round -> client -> reason; ``old`` leaves out
    what earlier versions did not write; ``digests`` and ``data`` change what run.json and the configuration say of the
    data; ``every`` leaves out the test metrics of other rounds but the last; the ``task`` "writing" of
    `tests.tasks.doctored` has a perplexity in the accuracy's place, a hundred times as high.
    """
    levels, clients = sorted(set(ranks)), [f"client-{i}" for i in range(len(ranks))]
    config = parse(
        {
            "federation": {"clients": len(ranks), "rounds": planned or rounds, "seed": seed},
            "ranks": {"policy": "fixed", "levels": levels, "counts": [list(ranks).count(level) for level in levels]},
            "aggregation": {"method": method, "options": dict(options or {})},
            "data": dict(data or {}),
            "evaluation": {"every": every},
            "task": {"name": task},
        },
        "test",
    )
    files = RunFolder(folder)
    files.create(overwrite=False)
    files.write_config(Asked(config, config))
    held = {} if old else {"digests": {**DIGESTS, **(digests or {})}}
    files.write_json("run", {"task": task, "labels": list(labels), "head_modules": ["classifier"], **held, **ABOUT})
    table = {
        client: {"rank": rank, "examples": 10, "group": None if old else "skewed"}
        | ({} if old else {"labels": [10 if i == n % len(labels) else 0 for i in range(len(labels))]})
        for n, (client, rank) in enumerate(zip(clients, ranks, strict=True))
    }
    files.write_json("clients", {"clients": table, "scoring": {"bytes/up": 1000, "bytes/down": 1000}})
    owners = [sum(rank > j for rank in ranks) / len(ranks) for j in range(max(ranks))]
    for number in range(1, rounds + 1):
        line: dict[str, Any] = {
            "round": number,
            "test/accuracy": accuracy * (1 - math.exp(-number / 2)) + 0.01 * seed,
            "test/loss": max(1.2 - 0.1 * number, 0.0),
            "bytes/up": 5000,
            "bytes/down": 5000,
            "rows/owners_weight": owners,
            "clients": clients,
            "dropped": dict((dropped or {}).get(number, {})),
            "seconds": 1.5,
        }
        if not old:
            line["rows/energy"] = [2.0 if share == 1 else 2.0 * kept**number for share in owners]
        if diagnosed:
            errors: list[float | None] = [0.2, 0.4, None, 0.1]
            line |= {
                "aggregation/error": 0.3,
                "aggregation/error_by_module": dict(zip(MODULES, errors, strict=True)),
                "rank/effective": 3.0,
                "rank/energy_in_lowest": 0.8,
                "clients/drift": 0.5,
            }
        if task == "writing":
            line = {"round": number, "test/perplexity": 100 * line["test/accuracy"], **line}
            del line["test/accuracy"]
        if number % every and number != config.federation.rounds:
            line = {key: value for key, value in line.items() if not key.startswith("test/")}
        files.append_metrics(line)
    if rounds >= config.federation.rounds:
        scores = (
            {"loss": 1.0, "perplexity": 2.7} if task == "writing" else {"accuracy": 0.5, "macro_f1": 0.5, "loss": 1.0}
        )
        constant = {"constant/perplexity": 90.0} if task == "writing" else {"constant/accuracy": 0.4}
        groups = [{"rank": level, "clients": 1, **scores} for level in levels]
        files.write_json("summary", {"rank_groups": groups, **constant, "memory/peak": 2**30, "seconds": 1.5 * rounds})
    return folder


def run(folder: Path, *args: Any, **options: Any) -> Run:
    """`write_run`, read back."""
    return read(write_run(folder, *args, **options))
