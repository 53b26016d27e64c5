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

``--nodes`` measures another thing: the quickstart with its 100 clients on 100 simulated nodes beside `polyrank run`, in
turn and a few times each, because other work on the machine would else be taken for Flower's. What is compared is the
scoring round (from the start of the run to the clients' ranks in its folder) and the median of the other rounds.
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
from polyrank.runs.folder import RunFolder

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "flower.json"
NODES_RESULT = RESULT.with_name("flower_nodes.json")
RANKS = {1: 3, 16: 48, 64: 193}
"""Megabytes -> rank."""
WAYS = ("simulation", "deployment", "resident")
ROUNDS, CLIENTS = 6, 2
NODES, TIMES = 100, 3
QUICKSTART = ("federation.rounds=6", f"federation.clients={NODES}", "evaluation.rank_groups=false")
MOST, PER_MESSAGE = 1.5, 0.01
"""How many times as long as in `polyrank run` a round may take, beside Flower's own seconds per message."""


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


def stages(out: Path) -> tuple[float, float]:
    """Seconds of a run's scoring round, and of the other rounds in the median without the first, which warms up."""
    begun, scored = ((out / name).stat().st_mtime for name in ("run.json", "clients.json"))
    return scored - begun, statistics.median(line["seconds"] for line in RunFolder(out).read_metrics()[1:])


def beside(work: Path) -> dict[str, Any]:
    """The quickstart here and on simulated nodes, in turn: how many times as long each stage takes there."""
    found: dict[str, list[tuple[float, float]]] = {"run": [], "simulation": []}
    for number in range(TIMES):
        folder = work / f"nodes-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with Simulation(folder) as call:
            call("polyrank", "run", "--out", "run", *sets(QUICKSTART), seconds=1800)
            call("polyrank", "flower", "init", "app", *sets(QUICKSTART), "--out", folder / "simulation")
            options = f"num-supernodes={NODES} client-resources-num-cpus=1"
            call("flwr", "run", "app", "--stream", "--federation-config", options, seconds=1800)
        for way, seconds in found.items():
            seconds.append(stages(folder / way))
        shutil.rmtree(folder)
    result: dict[str, Any] = {"nodes": NODES, **found}
    for i, (stage, messages) in enumerate((("scoring", NODES), ("round", NODES // 10))):
        own = PER_MESSAGE * messages
        ratios = [(there[i] - own) / here[i] for here, there in zip(found["run"], found["simulation"], strict=True)]
        result[stage] = {"ratio": statistics.median(ratios), "ratios": ratios, "most": MOST}
    return result


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
    parser.add_argument("--nodes", action="store_true", help="measure 100 simulated nodes beside polyrank run")
    parser.add_argument("--fresh", action="store_true", help="measure all of these again")
    chosen = parser.parse_args(arguments)
    results: dict[str, Any] = {"machine": machine(), "measurements": {}}
    if chosen.result.is_file():
        results["measurements"] = json.loads(chosen.result.read_text(encoding="utf-8"))["measurements"]
    if chosen.nodes:
        found = beside(chosen.work.absolute())
        chosen.result = NODES_RESULT if chosen.result == RESULT else chosen.result
        chosen.result.write_text(json.dumps({"machine": machine(), **found}, indent=1) + "\n", encoding="utf-8")
        print("\n".join(f"{stage}: {found[stage]['ratio']:.2f} of {MOST} times" for stage in ("scoring", "round")))
        return
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
