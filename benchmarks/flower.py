"""What a round on Flower costs beyond training: ``python -m benchmarks.flower``.

Prints a Markdown table and writes ``benchmarks/results/flower.json``; what is in it already is not measured again, so
it can be stopped and started again (``--fresh`` starts anew). Needs the extra ``flower``.

Two clients, one per core, each with an adapter of about 1, 16 or 64 MB in float32 (LoRA on all linear layers of
DistilBERT's shape with random weights, of rank 3, 48 or 193) and eight texts. Of a round's seconds in metrics.jsonl
the slower client's own training (``train/seconds``) is taken off; what is left is Flower, the way there and back,
loading the base where it is not resident, checks and aggregation. Median of the rounds between the first, which warms
up, and the last, which evaluates.

- simulation: `flwr run`, two Ray actors of one processor;
- deployment: a SuperLink and two SuperNodes over TLS with keys on loopback; every message loads the base;
- resident: the same with a daemon (`polyrank site`) per node that holds base and data.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.deployment import Deployment, Processes, Simulation, sets, wait
from benchmarks.machine import machine
from benchmarks.versus_flower import distilbert
from polyrank.federation.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "flower.json"
RANKS = {1: 3, 16: 48, 64: 193}
"""Megabytes -> rank."""
WAYS = ("simulation", "deployment", "resident")
ROUNDS, CLIENTS = 6, 2


def settings(model: Path, rank: int) -> list[str]:
    """The federation, as for ``--set``."""
    return [
        f'model.name="{model}"',
        *("model.targets=all-linear", "model.head=mean-pool", "data.partition=iid", "data.limit_test=20"),
        *("ranks.policy=fixed", f"ranks.levels=[{rank}]", f"data.limit_train={8 * CLIENTS}", "training.batch_size=8"),
        *(f"federation.clients={CLIENTS}", "federation.participation=1.0", f"federation.rounds={ROUNDS}"),
        *("training.engine=batched", "training.clients_per_pass=1", "training.workers=1", "training.epochs=1"),
        *("training.precision=float32", "training.attention=sdpa", "evaluation.every=1000000"),
        *("evaluation.diagnostics=false", "evaluation.rank_groups=false"),
    ]


def simulated(folder: Path, out: Path, values: Sequence[str]) -> None:
    """The run in Flower's simulation."""
    with Simulation(folder) as call:
        call("polyrank", "flower", "init", "app", *sets(values), "--out", out)
        options = f"num-supernodes={CLIENTS} client-resources-num-cpus=1"
        call("flwr", "run", "app", "--stream", "--federation-config", options)


def deployed(folder: Path, out: Path, values: Sequence[str], *, resident: bool) -> None:
    """The run over real SuperNodes."""
    with Processes(folder / "logs") as processes:
        deployment = Deployment(folder, processes, nodes=CLIENTS)
        for i in range(CLIENTS):
            own = f"partition-id={i}"
            if resident:
                socket = folder / f"site{i}" / "site.sock"
                deployment.site(socket, values)
                own = f'client="client-{i:02d}" site-socket="{socket}" evaluate=false'
            deployment.register(i)
            deployment.node(i, own)
        wait(lambda: deployment.online() == CLIENTS, 120, "not all nodes were online")
        deployment.run(deployment.init(folder / "app", out, values))
        try:
            wait((out / "summary.json").is_file, 1200, "the run did not end")
        except TimeoutError as error:
            raise SystemExit(f"{error}\n{processes.output()}") from None


def measure(way: str, megabytes: int, work: Path) -> dict[str, Any]:
    """One way and size, in a folder that is gone afterwards."""
    folder = work / f"{way}-{megabytes}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    out, values = folder / "run", settings(distilbert(work), RANKS[megabytes])
    if way == "simulation":
        simulated(folder, out, values)
    else:
        deployed(folder, out, values, resident=way == "resident")
    lines = RunFolder(out).read_metrics()
    if len(lines) != ROUNDS or any(line["dropped"] for line in lines):
        raise SystemExit(f"{folder}: not all clients were in all rounds: {[line['dropped'] for line in lines]}")
    timed = lines[1:-1]
    beyond = [line["seconds"] - line["train/seconds"] for line in timed]
    shutil.rmtree(folder)
    return {
        "bytes": timed[0]["bytes/up"] // CLIENTS,
        "seconds": statistics.median(line["seconds"] for line in timed),
        "training": statistics.median(line["train/seconds"] for line in timed),
        "beyond": statistics.median(beyond),
        "from": min(beyond),
        "to": max(beyond),
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: seconds beyond training, the least and the most of the rounds beside them."""
    found = results["measurements"]
    lines = ["| adapter | simulation | deployment | with a resident base |", "|---|---|---|---|"]
    for megabytes in RANKS:
        rows = [found.get(f"{way}/{megabytes}") for way in WAYS]
        size = next((f"{row['bytes'] / 1e6:.1f} MB" for row in rows if row), f"{megabytes} MB")
        cells = [f"{row['beyond']:.1f} s ({row['from']:.1f} to {row['to']:.1f})" if row else "-" for row in rows]
        lines.append("| " + " | ".join([size, *cells]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--megabytes", nargs="+", type=int, choices=list(RANKS), default=list(RANKS))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-flower"))
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--fresh", action="store_true", help="measure all of these again")
    chosen = parser.parse_args(arguments)
    results: dict[str, Any] = {"machine": machine(), "measurements": {}}
    if chosen.result.is_file():
        results["measurements"] = json.loads(chosen.result.read_text(encoding="utf-8"))["measurements"]
    for way in chosen.ways:
        for megabytes in chosen.megabytes:
            name = f"{way}/{megabytes}"
            if chosen.fresh or name not in results["measurements"]:
                results["measurements"][name] = measure(way, megabytes, chosen.work.absolute())
                chosen.result.parent.mkdir(parents=True, exist_ok=True)
                chosen.result.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
