"""How close training comes to what the machine can do, and what it costs as the work grows.

``python -m benchmarks.engines`` prints Markdown tables and writes ``benchmarks/results/engines.json``. Parts, of which
``--parts`` picks some; each is kept in the JSON until it is measured again:

- ``arithmetic``: floating point operations of the frozen layers per second of a round, as a share of the rate at which
  a plain chain of the same matrix products runs; and the share of a round that is no forward or backward pass. For the
  quickstart's backbone, DistilBERT's shape (random weights) and, with ``--minilm`` and ``--ag-news``, MiniLM.
- ``width``: one client after another against several in one pass, alternating.
- ``growth``: rounds per hour and peak memory for ever more clients, larger cohorts and higher ranks, each from a
  process of its own, on random texts. Linux only.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

from benchmarks.machine import machine
from polyrank import config as configuration
from polyrank.federation.round import cohort
from polyrank.federation.setup import Federation, build
from polyrank.hf.frozen import PackedLinear
from polyrank.quickstart import backbone_path
from polyrank.seeds import derive
from polyrank.training.batched import Batched
from polyrank.training.job import Engine, Job
from polyrank.training.profile import Clock
from polyrank.training.sequential import Sequential

RESULT = Path(__file__).parent / "results" / "engines.json"
PARTS = ("arithmetic", "width", "growth")
REPEATS = 3
GROWTH: Mapping[str, Sequence[int]] = {
    "clients": (10, 100, 1_000, 10_000),
    "cohort": (10, 50, 200),
    "rank": (4, 16, 64, 128),
}
COMMON = (
    *("data.partition=iid", "federation.participation=0.1", "ranks.policy=fixed", "aggregation.method=fedavg"),
    *("training.lr=1e-3", "training.workers=1", "evaluation.diagnostics=false", "evaluation.rank_groups=false"),
)


@dataclass(frozen=True)
class Shape:
    """A model and its data: overrides of the configuration, and how many clients are timed."""

    name: str
    overrides: tuple[str, ...]
    clients: int


def shapes(work: Path, minilm: Path | None, ag_news: Path | None) -> list[Shape]:
    """Those whose files are there."""
    distil = work / "distilbert"
    if not distil.is_dir():
        torch.manual_seed(0)
        DistilBertModel(DistilBertConfig()).save_pretrained(distil)
        AutoTokenizer.from_pretrained(backbone_path()).save_pretrained(distil)
    found = [
        Shape("quickstart backbone, 4 x 128", ("data.size=50", "training.batch_size=16"), 10),
        Shape("DistilBERT's shape, 6 x 768", (f"model.name={distil}", "data.size=50", "training.batch_size=32"), 2),
    ]
    if minilm and ag_news:
        files = (f"data.train={ag_news / 'train.csv'}", f"data.test={ag_news / 'test.csv'}")
        found.append(
            Shape("MiniLM, 6 x 384", (f"model.name={minilm}", *files, "data.size=200", "training.batch_size=32"), 2)
        )
    return found


def prepared(shape: Shape, *extra: str) -> tuple[Federation, list[Job]]:
    """The federation, and jobs of its first clients."""
    federation = build(configuration.load(None, [*COMMON, "ranks.levels=[8]", *shape.overrides, *extra]))
    options = federation.config.federation
    names = cohort(federation.clients, options.participation, options.seed, 1)[: shape.clients]
    adapter = federation.initial_state().adapter
    return federation, [
        Job(name, adapter, federation.examples[name], 1.0, derive(0, "benchmark", name)) for name in names
    ]


def operations(engine: Engine, jobs: Sequence[Job], model: nn.Module) -> tuple[float, dict[tuple[int, int], int]]:
    """Floating point operations of the frozen linear layers in these jobs, and rows per (d_in, d_out) of one pass."""
    total, rows = 0.0, {}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        nonlocal total
        (x,) = inputs
        directions = 1 + x.requires_grad
        assert isinstance(layer, nn.Linear)
        size = x.numel() // x.shape[-1]
        total += 2.0 * size * layer.in_features * layer.out_features * directions
        rows[layer.in_features, layer.out_features] = max(size, rows.get((layer.in_features, layer.out_features), 0))

    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and not m.weight.requires_grad]
    handles = [layer.register_forward_hook(count) for layer in layers]
    list(engine.train(jobs))
    for handle in handles:
        handle.remove()
    return total, rows


def chain_rate(rows: Mapping[tuple[int, int], int]) -> float:
    """Operations per second of the same products alone, forward and backward, in the form that layers use."""
    layers = []
    for (d_in, d_out), size in rows.items():
        layer = nn.Linear(d_in, d_out).to(torch.bfloat16).requires_grad_(False)
        layer.__class__ = PackedLinear
        layers.append((layer, torch.randn(size, d_in).to(torch.bfloat16).requires_grad_()))
    best, done = float("inf"), sum(4.0 * x.numel() * layer.out_features for layer, x in layers)
    for _ in range(30):
        start = time.perf_counter()
        for layer, x in layers:
            y = layer(x)
            y.backward(y.detach())
        best = min(best, time.perf_counter() - start)
    return done / best


def arithmetic(found: Sequence[Shape]) -> list[dict[str, Any]]:
    """One row per shape and dropout."""
    table = []
    for shape in found:
        federation, jobs = prepared(shape, "training.precision=bfloat16", "training.attention=eager")
        clock = Clock(running=True)
        width = min(federation.plan.clients_per_pass, len(jobs))
        engine = Batched(federation.resident, federation.config.training, width, clock)
        done, rows = operations(engine, jobs, federation.resident.model)
        shares, rates = [], []
        for _ in range(REPEATS):
            clock.take()
            start = time.perf_counter()
            list(engine.train(jobs))
            seconds = time.perf_counter() - start
            booked = clock.take()
            shares.append(1 - booked["arithmetic"] / seconds)
            rates.append(done / seconds)
        chain = chain_rate(rows)
        table.append(
            {
                "model": shape.name,
                "clients_per_pass": width,
                "chain_gflops": chain / 1e9,
                "round_gflops": max(rates) / 1e9,
                "share": max(rates) / chain,
                "beyond_arithmetic": statistics.median(shares),
            }
        )
        print(table[-1], flush=True)
    return table


def width(found: Sequence[Shape]) -> list[dict[str, Any]]:
    """Seconds per client and step, alternating; and the planner's choice."""
    table = []
    for shape in found:
        federation, jobs = prepared(shape, "training.precision=bfloat16", "training.attention=eager")
        options, resident = federation.config.training, federation.resident
        engines: dict[str, Engine] = {"sequential": Sequential(resident, options)}
        for clients in (1, 2, 5, 10):
            if clients <= len(jobs):
                engines[f"batched {clients}"] = Batched(resident, options, clients)
        best = dict.fromkeys(engines, float("inf"))
        for _ in range(REPEATS + 1):
            for name, engine in engines.items():
                start = time.perf_counter()
                steps = sum(int(update.metrics["steps"]) for update in engine.train(jobs))
                best[name] = min(best[name], (time.perf_counter() - start) / steps)
        table.append({"model": shape.name, "planner": str(federation.plan), "seconds_per_client_step": best})
        print(table[-1], flush=True)
    return table


def growth(work: Path) -> list[dict[str, Any]]:
    """One process per point."""
    table = []
    for what, values in GROWTH.items():
        for value in values:
            command = [sys.executable, "-m", "benchmarks.engines", "--point", what, str(value), "--work", str(work)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            table.append({what: value, **json.loads(done.stdout.splitlines()[-1])})
            print(table[-1], flush=True)
    return table


def point(what: str, value: int, work: Path) -> dict[str, Any]:
    """Rounds per hour and peak memory of one federation on random texts, 8 per client, without evaluation."""
    clients = {"clients": value, "cohort": 1000, "rank": 100}[what]
    size = value if what == "cohort" else 10
    rank = value if what == "rank" else 8
    words, random = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"], np.random.default_rng(0)
    texts = work / f"texts-{clients}.csv"
    with texts.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([" ".join(random.choice(words, 20)), f"l{random.integers(4)}"] for _ in range(8 * clients + 400))
    import polyrank

    settings = [
        *COMMON,
        *(f"data.train={texts}", "data.test_share=0.04", "data.size=8" if clients < 10_000 else "data.size=7"),
        *(f"federation.clients={clients}", f"federation.participation={size / clients}", "federation.rounds=8"),
        *(f"ranks.levels=[{rank}]", "evaluation.every=1000", "training.precision=bfloat16"),
        *("training.attention=eager", "training.engine=batched", "training.clients_per_pass=10"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        polyrank.run(polyrank.load_config(overrides=settings), run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = statistics.median(line["seconds"] for line in lines[1:-1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds_per_round": seconds, "rounds_per_hour": 3600 / seconds, "peak_mib": peak}


def tables(report: Mapping[str, Any]) -> str:
    """Markdown, one table per part that was measured."""
    blocks = []
    if rows := report.get("arithmetic"):
        lines = ["| model | clients per pass | products alone, GFLOP/s | in a round | share | not arithmetic |"]
        lines.append("|---|---|---|---|---|---|")
        lines += [
            f"| {r['model']} | {r['clients_per_pass']} | {r['chain_gflops']:.0f} | {r['round_gflops']:.0f} "
            f"| {r['share']:.0%} | {r['beyond_arithmetic']:.1%} |"
            for r in rows
        ]
        blocks.append("\n".join(lines))
    if rows := report.get("width"):
        names = list(max((r["seconds_per_client_step"] for r in rows), key=len))
        lines = [f"| model | {' | '.join(names)} | the planner's choice |", "|---" * (len(names) + 2) + "|"]
        for r in rows:
            timed = r["seconds_per_client_step"]
            cells = [f"{1000 * timed[name]:.1f} ms" if name in timed else "-" for name in names]
            lines.append(f"| {r['model']} | {' | '.join(cells)} | {r['planner']} |")
        blocks.append("\n".join(lines))
    if rows := report.get("growth"):
        lines = ["| what grows | | seconds per round | rounds per hour | peak MiB |", "|---|---|---|---|---|"]
        for r in rows:
            what = next(name for name in GROWTH if name in r)
            cells = f"{r['seconds_per_round']:.3f} | {r['rounds_per_hour']:.0f} | {r['peak_mib']:.0f}"
            lines.append(f"| {what} | {r[what]} | {cells} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minilm", type=Path, metavar="DIR", help="all-MiniLM-L6-v2 as save_pretrained writes it")
    parser.add_argument("--ag-news", type=Path, metavar="DIR", help="train.csv and test.csv, columns text and label")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-engines"), help="folder of temporary files")
    parser.add_argument("--result", type=Path, default=RESULT, help="JSON file to write")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    chosen.work.mkdir(parents=True, exist_ok=True)
    if chosen.point:
        print(json.dumps(point(chosen.point[0], int(chosen.point[1]), chosen.work)))
        return
    report: dict[str, Any] = {}
    if chosen.result.is_file():
        report = json.loads(chosen.result.read_text(encoding="utf-8"))
    found = shapes(chosen.work, chosen.minilm, chosen.ag_news) if {"arithmetic", "width"} & set(chosen.parts) else []
    if "arithmetic" in chosen.parts:
        report["arithmetic"] = arithmetic(found)
    if "width" in chosen.parts:
        report["width"] = width(found)
    if "growth" in chosen.parts:
        report["growth"] = growth(chosen.work)
    report["machine"] = machine()
    print(tables(report))
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    chosen.result.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
