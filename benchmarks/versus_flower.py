"""The same federated job under Flower's simulation and under PolyRank: ``python -m benchmarks.versus_flower``.

Prints a Markdown table and writes ``benchmarks/results/versus_flower.json``. Needs the extra ``flower`` and Linux.
Measurements that are finished are reused, so it can be stopped and started again, or called for one job after another:
the table holds all that are in the folder of ``--work``. With ``--fresh`` it starts anew.

The jobs, all with LoRA of rank 8 and scale 2 on query and value, AdamW, one local epoch, 10 clients per round, FedAvg:

- J1: all-MiniLM-L6-v2 on AG News, 200 texts per client, batches of 32; needs ``--ag-news`` and ``--minilm``;
- J2: the first 3 layers of the quickstart's backbone on stdlib-docs, 50 texts, batches of 16;
- J3: DistilBERT's shape with random weights on stdlib-docs, 64 texts, batches of 32. It is there for its size: nobody
  adapts random weights, and its accuracy says nothing.

Each with the dropout of the model's own configuration (``keep``) and without any (``zero``); J2's model has none.

The ways:

- flower: the base model is built for each message, as in Flower's examples;
- flower-resident: each actor builds it once and keeps it;
- polyrank: ``polyrank run`` with its own choice of precision, attention and engine;
- pfl: Apple's pfl, where ``--pfl`` names the Python of an environment that has it.

Flower runs ``--actors`` Ray actors of one processor and one thread each, which is its fastest setting on two cores; pfl
as many processes of one thread. PolyRank runs after each of the others, so that all meet the same moods of the machine.
Every run is a process of its own. Of each, the first round warms up and the last is left out, because PolyRank
evaluates in it; the others are measured, all without evaluation. What a run takes besides its rounds, at their pace, is
its start and stop. Memory is the highest sum of the proportional set
sizes of all processes of a run, looked at twice a second, from its start to its end. PolyRank's includes its
evaluation; Flower's and pfl's accuracy is measured afterwards in another process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.deployment import QUIET
from benchmarks.flower_job import memory
from benchmarks.machine import machine
from polyrank import config as configuration
from polyrank.config import Config
from polyrank.quickstart import backbone_path
from polyrank.runs.folder import RunFolder

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "versus_flower.json"
RANK, COHORT, NEVER = 8, 10, 10**6
FLOWER, RESIDENT, PFL, POLYRANK = "flower", "flower-resident", "pfl", "polyrank"
WAYS = (FLOWER, RESIDENT, PFL, POLYRANK)
UNTIMED = 2
"""Rounds that are not measured: the first and the last."""

SET_HELP = "changes the job; what only PolyRank knows, such as training.precision, changes its runs alone"


@dataclass(frozen=True)
class Job:
    """What is trained.

    Args:
        about: model and data, for people.
        targets: modules with LoRA.
        texts: per client.
        batch: texts per step.
        rounds: that are measured, unless told otherwise.
        clients: of which ten take part in a round.
        dropouts: keys of the model's configuration that ``zero`` sets to 0; none where they are 0 already.
        model: values that replace those of the model's configuration.
    """

    about: str
    targets: tuple[str, ...]
    texts: int
    batch: int
    rounds: int
    clients: int = 100
    dropouts: tuple[str, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)  # Any: values of a model's configuration

    @property
    def variants(self) -> tuple[str, ...]:
        """The dropout variants; ``none`` where the model has no dropout that could be kept."""
        return ("keep", "zero") if self.dropouts else ("none",)


JOBS: Mapping[str, Job] = {
    "J1": Job(
        "all-MiniLM-L6-v2 on AG News",
        ("query", "value"),
        texts=200,
        batch=32,
        rounds=4,
        dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    ),
    "J2": Job(
        "BERT of 3 layers of 128 on stdlib-docs",
        ("query", "value"),
        texts=50,
        batch=16,
        rounds=30,
        model={"num_hidden_layers": 3},
    ),
    "J3": Job(
        "DistilBERT's shape on stdlib-docs",
        ("q_lin", "v_lin"),
        texts=64,
        batch=32,
        rounds=4,
        clients=50,  # as many as stdlib-docs has texts for
        dropouts=("dropout", "attention_dropout", "seq_classif_dropout"),
    ),
}


@dataclass(frozen=True)
class Places:
    """Where things are.

    Args:
        work: folder for runs and measurements.
        ag_news: folder with ``train.csv`` and ``test.csv``.
        minilm: folder of all-MiniLM-L6-v2.
        pfl: Python of an environment with pfl.
        actors: how many of Flower's actors or pfl's processes.
        changes: of the job's configuration, as ``--set`` takes them.
    """

    work: Path
    ag_news: Path | None
    minilm: Path | None
    pfl: str | None
    actors: int
    changes: tuple[str, ...]


@dataclass(frozen=True, order=True)
class Plan:
    """One measurement."""

    job: str
    dropout: str
    seed: int
    repeat: int
    turn: int
    way: str
    rounds: int

    @property
    def name(self) -> str:
        return f"{self.job}-{self.dropout}-seed-{self.seed}-{self.repeat}-{self.turn}-{self.way}"


def plans(chosen: argparse.Namespace, ways: Sequence[str]) -> Iterator[Plan]:
    """All measurements in the order in which they are made: PolyRank after each of the others."""
    others = [way for way in ways if way != POLYRANK]
    order = [name for way in others for name in ((way, POLYRANK) if POLYRANK in ways else (way,))] or list(ways)
    for repeat in range(chosen.repeats):
        for seed in chosen.seeds:
            for name in chosen.jobs:
                job = JOBS[name]
                for dropout in [v for v in job.variants if v in ("none", *chosen.dropout)]:
                    rounds = (chosen.rounds or job.rounds) + UNTIMED
                    for turn, way in enumerate(order):
                        yield Plan(name, dropout, seed, repeat, turn, way, rounds)


def config_of(plan: Plan, places: Places) -> Config:
    """The job as PolyRank's configuration; Flower's side reads the same file."""
    job = JOBS[plan.job]
    name, train, test = "quickstart", "stdlib-docs", None
    if plan.job == "J1":
        assert places.ag_news is not None
        assert places.minilm is not None
        name, train, test = str(places.minilm), str(places.ag_news / "train.csv"), str(places.ag_news / "test.csv")
    elif plan.job == "J3":
        name = str(distilbert(places.work))
    values: dict[str, Any] = {
        "model": {
            "name": name,
            "targets": list(job.targets),
            "config": {**job.model, **(dict.fromkeys(job.dropouts, 0.0) if plan.dropout == "zero" else {})},
        },
        "data": {
            "train": train,
            **({"test": test} if test else {}),
            "limit_test": 2000,
            "partition": "iid",
            "size": job.texts,
            "max_tokens": 64,
        },
        "federation": {
            "clients": job.clients,
            "participation": COHORT / job.clients,
            "rounds": plan.rounds,
            "seed": plan.seed,
        },
        "ranks": {"policy": "fixed", "levels": [RANK], "shares": [1.0], "scaling": "constant", "alpha": 2.0},
        "aggregation": {"method": "fedavg"},
        "training": {"lr": 1e-3, "epochs": 1, "batch_size": job.batch, "clip": 0.0},
        "evaluation": {"every": NEVER, "batch_size": 32, "diagnostics": False, "rank_groups": False},
    }
    return configuration.override(configuration.parse(values, plan.name), places.changes)


def distilbert(work: Path) -> Path:
    """The folder of a DistilBERT with random weights and the quickstart's tokenizer; made where it is missing."""
    folder = work / "distilbert-random"
    if not folder.is_dir():
        import torch
        from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

        from polyrank.hf.files import quiet

        unfinished = folder.with_name("distilbert-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            DistilBertModel(DistilBertConfig()).save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(backbone_path()).save_pretrained(unfinished)
        unfinished.rename(folder)
    return folder.absolute()


def measure(plan: Plan, places: Places) -> dict[str, Any]:
    """One measurement, from its file if it is finished there and was made with these settings."""
    config = config_of(plan, places)
    settings = {"config": config.model_dump(mode="json"), "actors": places.actors, "way": plan.way}
    path = places.work / "measurements" / f"{plan.name}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] == settings:
            return found
    folder = places.work / "runs" / plan.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    toml = folder / "job.toml"
    toml.write_text(configuration.dump(config), encoding="utf-8")
    environment = {**os.environ, **QUIET, "FLWR_HOME": str((places.work / "flower").absolute())}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    log = folder / "log.txt"
    finished = memory.run(_command(plan.way, toml.absolute(), places), environment, log)
    if finished.code:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
        raise SystemExit(f"{plan.name} ended with {finished.code}; {log}:\n{tail}")
    seconds, accuracy, chosen = _outcome(plan.way, toml.absolute(), environment)
    if len(seconds) != plan.rounds:
        raise SystemExit(f"{plan.name}: {len(seconds)} rounds, expected {plan.rounds}; see {log}")
    pace = statistics.median(seconds[1:-1])
    result = {
        "job": plan.job,
        "dropout": plan.dropout,
        "way": plan.way,
        "seed": plan.seed,
        "repeat": plan.repeat,
        "turn": plan.turn,
        "seconds": seconds[1:-1],
        "first_round": seconds[0],
        "start_and_stop": finished.seconds - sum(seconds) + seconds[0] - pace,
        "whole_run": finished.seconds,
        "peak": finished.peak,
        "processes": finished.processes,
        "accuracy": accuracy,
        "training": chosen,
        "settings": settings,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{plan.name}: {pace:.2f} s a round, {finished.peak / 2**20:.0f} MiB, {finished.seconds:.0f} s", flush=True)
    return result


def _command(way: str, toml: Path, places: Places) -> list[str]:
    out = str(toml.parent)
    if way == POLYRANK:
        return [sys.executable, "-m", "polyrank", "run", str(toml), "--out", str(toml.parent / "run")]
    if way == PFL:
        assert places.pfl is not None
        torchrun = [places.pfl, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(places.actors)]
        return [*torchrun, "-m", "benchmarks.flower_job.apple_pfl", str(toml), out]
    simulate = [sys.executable, "-m", "benchmarks.flower_job.simulate", str(toml), out]
    return [*simulate, "--actors", str(places.actors), *(["--keep"] if way == RESIDENT else [])]


def _outcome(
    way: str, toml: Path, environment: Mapping[str, str]
) -> tuple[list[float], float, dict[str, Any] | None]:  # Any: a table of the configuration
    """Seconds of all rounds, test accuracy, and what PolyRank chose where its settings were ``auto``."""
    if way == POLYRANK:
        run = RunFolder(toml.parent / "run")
        chosen = run.read_config().training.model_dump(mode="json")
        return [line["seconds"] for line in run.read_metrics()], run.read_json("summary")["test/accuracy"], chosen
    command = [sys.executable, "-m", "benchmarks.flower_job.accuracy", str(toml), str(toml.parent)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    seconds, accuracy = (json.loads((toml.parent / f"{n}.json").read_text()) for n in ("rounds", "accuracy"))
    return seconds, accuracy, None


def summarise(measurements: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per job, dropout and way, over seeds and repeats; compared with Flower's row of the same dropout.

    Seconds are the median over all rounds of all runs; memory and start and stop the median over the runs. Accuracy
    counts once per seed.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for one in measurements:
        groups.setdefault((one["job"], one["dropout"], one["way"]), []).append(one)
    rows: list[dict[str, Any]] = []
    for (job, dropout, way), runs in groups.items():
        seconds = [value for run in runs for value in run["seconds"]]
        rows.append(
            {
                "job": job,
                "dropout": dropout,
                "way": way,
                "runs": len(runs),
                "seconds_per_round": statistics.median(seconds),
                "seconds_range": [min(seconds), max(seconds)],
                "rounds_per_hour": 3600 / statistics.median(seconds),
                "first_round": statistics.median(run["first_round"] for run in runs),
                "start_and_stop": statistics.median(run["start_and_stop"] for run in runs),
                "peak": statistics.median(run["peak"] for run in runs),
                "accuracy": {str(run["seed"]): run["accuracy"] for run in runs},
            }
        )
    base = {(row["job"], row["dropout"]): row for row in rows if row["way"] == FLOWER}
    for row in rows:
        flower = base.get((row["job"], row["dropout"]))
        row["times_flower"] = flower["seconds_per_round"] / row["seconds_per_round"] if flower else None
        row["share_of_memory"] = row["peak"] / flower["peak"] if flower else None
    return rows


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown, a row per job, dropout and way."""
    head = (
        *("job", "dropout", "way", "seconds per round", "rounds per hour", "times Flower's speed", "peak MiB"),
        *("share of Flower's memory", "start and stop, s", "accuracy, mean (range over the seeds)"),
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in sorted(rows, key=lambda r: (r["job"], r["dropout"], WAYS.index(r["way"]))):
        cells = (
            row["job"],
            row["dropout"],
            row["way"],
            f"{row['seconds_per_round']:.2f}",
            f"{row['rounds_per_hour']:.0f}",
            "-" if row["times_flower"] is None else f"{row['times_flower']:.2f}",
            f"{row['peak'] / 2**20:.0f}",
            "-" if row["share_of_memory"] is None else f"{row['share_of_memory']:.0%}",
            f"{row['start_and_stop']:.0f}",
            _spread(row["accuracy"].values()),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Iterable[float]) -> str:
    numbers = [100 * value for value in values]
    return f"{statistics.fmean(numbers):.1f} % ({min(numbers):.1f} to {max(numbers):.1f})"


def versions(pfl: str | None) -> dict[str, str]:
    """Of what is compared."""
    found = {}
    for package in ("flwr", "ray"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if pfl:
        code = "import importlib.metadata as m; print(m.version('pfl'), m.version('torch'))"
        answer = subprocess.run([pfl, "-c", code], check=True, capture_output=True, text=True).stdout.split()
        found |= {"pfl": answer[0], "torch of pfl": answer[1]}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, then print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), help="by default all whose data are there")
    parser.add_argument("--dropout", nargs="+", choices=["keep", "zero"], default=["keep", "zero"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="by default all, pfl only with --pfl")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=1, help="of everything, for each seed")
    parser.add_argument("--rounds", type=int, help=f"to be measured; {UNTIMED} more are run")
    parser.add_argument("--actors", type=int, default=2, help="Flower's actors and pfl's processes")
    parser.add_argument("--ag-news", type=Path, metavar="DIR", help="train.csv and test.csv, columns text and label")
    parser.add_argument("--minilm", type=Path, metavar="DIR", help="all-MiniLM-L6-v2 as save_pretrained writes it")
    parser.add_argument("--pfl", metavar="PYTHON", help="interpreter of an environment with pfl and PolyRank")
    parser.add_argument("--set", nargs="+", default=[], dest="changes", metavar="KEY=VALUE", help=SET_HELP)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-versus-flower"), help="folder of the runs")
    parser.add_argument("--result", type=Path, default=RESULT, help="JSON file to write")
    parser.add_argument("--fresh", action="store_true", help="delete earlier runs first")
    chosen = parser.parse_args(arguments)
    with_data = bool(chosen.ag_news and chosen.minilm)
    chosen.jobs = chosen.jobs or [name for name in JOBS if name != "J1" or with_data]
    if "J1" in chosen.jobs and not with_data:
        parser.error("J1 needs --ag-news and --minilm")
    ways = chosen.ways or [way for way in WAYS if way != PFL or chosen.pfl]
    if PFL in ways and not chosen.pfl:
        parser.error("pfl needs --pfl")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended with it
    if chosen.fresh:
        shutil.rmtree(chosen.work, ignore_errors=True)
    chosen.work.mkdir(parents=True, exist_ok=True)
    ag_news, minilm = (path.absolute() if path else None for path in (chosen.ag_news, chosen.minilm))
    places = Places(chosen.work, ag_news, minilm, chosen.pfl, chosen.actors, tuple(chosen.changes))
    for plan in plans(chosen, ways):
        measure(plan, places)
    files = sorted((places.work / "measurements").glob("*.json"))
    measurements: list[dict[str, Any]] = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    rows = summarise(measurements)
    print(table(rows))
    report = {
        "machine": machine(),
        "versions": versions(chosen.pfl if PFL in ways else None),
        "settings": {"actors": chosen.actors, "changes": chosen.changes},
        "jobs": {name: JOBS[name].about for name in sorted({one["job"] for one in measurements})},
        "results": rows,
        "measurements": [{key: value for key, value in one.items() if key != "settings"} for one in measurements],
    }
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    chosen.result.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
