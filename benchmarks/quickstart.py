"""The quickstart under several methods and seeds: ``python -m benchmarks.quickstart``.

Prints a Markdown table and writes ``benchmarks/results/quickstart.json`` and ``docs/images/quickstart.svg``. Runs that
are finished are reused and one that was interrupted is continued, so it can be stopped and started again; with
``--fresh`` it starts anew. Needs the extra ``benchmarks`` (matplotlib).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polyrank
from benchmarks.machine import machine
from polyrank.federation.run_folder import RunFolder

HERE = Path(__file__).parent
RESULT = HERE / "results" / "quickstart.json"
PICTURE = HERE.parent / "docs" / "images" / "quickstart.svg"
TARGET = 0.5
LAST = 5

ENTRIES: Mapping[str, Sequence[str]] = {
    "replication": ("aggregation.method=replication",),
    "tempered": ("aggregation.method=tempered",),
    "zero_padding": ("aggregation.method=zero_padding",),
    "zero_padding_delta": ("aggregation.method=zero_padding_delta",),
    "hetlora": ("aggregation.method=hetlora",),
    "fedavg, rank 5": ("aggregation.method=fedavg", "ranks.levels=[5]"),
    "fedavg, rank 20": ("aggregation.method=fedavg", "ranks.levels=[20]"),
}


def run_one(entry: str, seed: int, extra: Sequence[str], work: Path) -> list[dict[str, Any]]:
    """The metrics of one run, from its folder if it is finished there."""
    folder = work / f"{entry.replace(', ', '-').replace(' ', '-')}-seed-{seed}"
    config = polyrank.load_config(overrides=[*ENTRIES[entry], f"federation.seed={seed}", *extra])
    run = RunFolder(folder)
    if not (folder / "summary.json").is_file():
        started = run.exists() and (folder / "checkpoint").is_dir()
        summary = polyrank.run(config, folder, resume=started, overwrite=not started)
        print(f"{entry}, seed {seed}: {summary['test/accuracy']:.3f} in {summary['seconds']:.0f} s", flush=True)
    return run.read_metrics()


def rounds_to(lines: Sequence[Mapping[str, Any]], target: float) -> int | None:
    """The first round whose test accuracy is at least ``target``."""
    return next((line["round"] for line in lines if line["test/accuracy"] >= target), None)


def summarise(runs: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """One method over its seeds."""
    curves = {seed: [line["test/accuracy"] for line in lines] for seed, lines in runs.items()}
    return {
        "rounds_to_target": {seed: rounds_to(lines, TARGET) for seed, lines in runs.items()},
        "final": {seed: curve[-1] for seed, curve in curves.items()},
        "mean_of_last": {seed: statistics.fmean(curve[-LAST:]) for seed, curve in curves.items()},
        "mean_of_all": {seed: statistics.fmean(curve) for seed, curve in curves.items()},
        "bytes_per_round": statistics.fmean(line["bytes/up"] + line["bytes/down"] for r in runs.values() for line in r),
        "seconds_per_round": statistics.median(line["seconds"] for r in runs.values() for line in r),
        "curves": curves,
    }


def table(results: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """Markdown, one row per method; plus-minus is the standard deviation over the seeds."""
    head = f"| method | rounds to {TARGET:.0%} (seeds {', '.join(map(str, seeds))}) | accuracy, last round |"
    rows = [f"{head} mean of the last {LAST} rounds | MiB per round, up and down |", "|---|---|---|---|---|"]
    for name, result in results.items():
        reached = ", ".join("-" if r is None else str(r) for r in result["rounds_to_target"].values())
        cells = [_spread(result["final"]), _spread(result["mean_of_last"])]
        rows.append(f"| {name} | {reached} | {cells[0]} | {cells[1]} | {result['bytes_per_round'] / 2**20:.2f} |")
    return "\n".join(rows)


def _spread(values: Mapping[int, float]) -> str:
    numbers = [100 * value for value in values.values()]
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return f"{statistics.fmean(numbers):.1f} ± {deviation:.1f} %"


def draw(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Mean accuracy over the rounds, with a band from the lowest to the highest seed."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "polyrank", "font.size": 10}
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    for name, result in results.items():
        curves = [[100 * value for value in curve] for curve in result["curves"].values()]
        rounds = range(1, len(curves[0]) + 1)
        each_round = list(zip(*curves, strict=True))
        (line,) = axes.plot(rounds, [statistics.fmean(values) for values in each_round], label=name, linewidth=1.6)
        low, high = [min(values) for values in each_round], [max(values) for values in each_round]
        axes.fill_between(rounds, low, high, color=line.get_color(), alpha=0.08, linewidth=0)
    axes.set(xlabel="round", ylabel="test accuracy, %", title="The quickstart, mean and range over the seeds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(ENTRIES), default=list(ENTRIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], dest="extra", metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-quickstart"), help="folder of the runs")
    parser.add_argument("--result", type=Path, default=RESULT, help="JSON file to write")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="SVG file to write")
    parser.add_argument("--fresh", action="store_true", help="delete earlier runs first")
    chosen = parser.parse_args(arguments)
    if chosen.fresh:
        shutil.rmtree(chosen.work, ignore_errors=True)
    runs = {  # seeds outside, so that an interrupted benchmark has whole seeds
        seed: {name: run_one(name, seed, chosen.extra, chosen.work) for name in chosen.methods} for seed in chosen.seeds
    }
    results = {name: summarise({seed: runs[seed][name] for seed in chosen.seeds}) for name in chosen.methods}
    print(table(results, chosen.seeds))
    report = {"target": TARGET, "settings": chosen.extra, "machine": machine(), "results": results}
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    chosen.result.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw(results, chosen.picture)


if __name__ == "__main__":
    main()
