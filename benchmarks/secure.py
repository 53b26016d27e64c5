"""What a secure sum costs beside a plain round: ``python -m benchmarks.secure``.

Prints Markdown tables and writes ``benchmarks/results/secure.json``. What is in it already is not measured again
(``--fresh`` starts anew). Needs the extra ``flower``.

- rounds: `polyrank run` in one process and a deployment with six SuperNodes over TLS with keys on loopback, with and
  without ``secure.enabled``: the embedded encoder, ranks 20, 20, 5, 5, 2, 2, 40 texts each. Seconds and bytes of a
  round in metrics.jsonl: the median of the rounds after the first, which warms up. The adapters of both are compared
  after one round.
- protocol: the steps alone, for adapters of 1 and 16 million numbers: seconds of each client and of the server, which
  opens the sum of all, or of all but one that was lost after it had shared out its secrets.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.deployment import Deployment, Processes, wait
from benchmarks.machine import machine
from polyrank import config as configuration
from polyrank.runs import checkpoint
from polyrank.runs.folder import RunFolder
from polyrank.runs.runner import run
from polyrank.secure import client as member
from polyrank.secure.attempt import unmasked
from polyrank.secure.values import Roster, Together

RESULT = Path(__file__).parent / "results" / "secure.json"
ROUNDS, RANKS = 3, (20, 20, 5, 5, 2, 2)
"""In the order of the clients' names, as the policy gives them."""
WAYS = ("one process", "deployment")
PROTOCOL = ((4, 1), (10, 1), (30, 1), (10, 16))
"""Clients, and millions of numbers of each."""


def settings(secure: bool, rounds: int = ROUNDS) -> list[str]:
    """The federation, as for ``--set``."""
    return [
        *(f"federation.clients={len(RANKS)}", "federation.participation=1.0", f"federation.rounds={rounds}"),
        *("ranks.policy=fixed", "ranks.levels=[2, 5, 20]", "ranks.counts=[2, 2, 2]", "data.partition=iid"),
        *(f"data.limit_train={40 * len(RANKS)}", "data.limit_test=50", "training.engine=batched"),
        *("training.clients_per_pass=1", "training.workers=1", "training.lanes=1", "training.precision=float32"),
        *("training.attention=sdpa", "evaluation.every=1000000", "evaluation.rank_groups=false"),
        *("evaluation.diagnostics=false", f"secure.enabled={str(secure).lower()}"),
    ]


def deployed(folder: Path, out: Path, values: Sequence[str]) -> None:
    """The run over real SuperNodes."""
    with Processes(folder / "logs") as processes:
        deployment = Deployment(folder, processes, nodes=len(RANKS))
        for i in range(len(RANKS)):
            deployment.register(i)
            deployment.node(i, f"partition-id={i}")
        try:
            wait(lambda: deployment.online() == len(RANKS), 240, "not all nodes were online")
            deployment.run(deployment.init(folder / "app", out, values), repeats=0, timeout=600.0)
            wait((out / "summary.json").is_file, 1800, "the run did not end")
        except TimeoutError as error:
            raise SystemExit(f"{error}\n{processes.output()}") from None


def rounds(way: str, work: Path) -> dict[str, Any]:
    """A way's plain and secure rounds."""
    found: dict[str, Any] = {}
    for secure in (False, True):
        folder = work / f"{way.replace(' ', '-')}-{'secure' if secure else 'plain'}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        out = folder / "run"
        if way == "deployment":
            deployed(folder, out, settings(secure))
        else:
            run(configuration.load(None, settings(secure)), out)
        lines = RunFolder(out).read_metrics()
        if len(lines) != ROUNDS or any(line["dropped"] for line in lines):
            raise SystemExit(f"{folder}: not all clients were in all rounds: {[line['dropped'] for line in lines]}")
        found["secure" if secure else "plain"] = {
            "seconds": statistics.median(line["seconds"] for line in lines[1:]),
            "all seconds": [line["seconds"] for line in lines],
            "up": lines[-1]["bytes/up"],
            "down": lines[-1]["bytes/down"],
        }
    return found


def difference(work: Path) -> float:
    """The largest difference of a value of the adapter after one round, with and without masks."""
    adapters = []
    for secure in (False, True):
        out = work / f"one-round-{secure}"
        shutil.rmtree(out, ignore_errors=True)
        run(configuration.load(None, settings(secure, rounds=1)), out)
        adapters.append(checkpoint.load(out / "checkpoint").adapter)
    pairs = zip(adapters[0].tensors(), adapters[1].tensors(), strict=True)
    return max(float((one - other).abs().max()) for (_, one), (_, other) in pairs)


def protocol(clients: int, millions: int) -> dict[str, Any]:
    """Seconds of the steps alone, in one thread."""
    names, count = [f"c{i:02d}" for i in range(clients)], millions * 1_000_000
    threshold = -(-2 * clients // 3)
    start = time.perf_counter()
    opened = {name: member.opened("benchmark", name) for name in names}
    roster = Roster("benchmark", threshold, {name: one.card for name, one in opened.items()})
    shared = {name: member.shared(one, roster) for name, one in opened.items()}
    sharing = (time.perf_counter() - start) / clients
    vector, together = np.arange(count, dtype=np.uint32), Together((tuple(names),), 2)
    start = time.perf_counter()
    sent, masked = {}, {}
    for name in names:
        inbox = {other: box[name] for other, (_, box) in shared.items() if other != name}
        sent[name], masked[name] = member.masked(shared[name][0], inbox, vector, together)
    masking = (time.perf_counter() - start) / clients
    opening = {}
    for lost in ([], names[:1]):
        there = {name: one for name, one in masked.items() if name not in lost}
        told = {name: member.told(sent[name], tuple(there)) for name in there}
        start = time.perf_counter()
        total = unmasked(roster, names, there, told)
        opening["one lost" if lost else "all"] = time.perf_counter() - start
        if not np.array_equal(total, (vector.astype(np.uint64) * len(there)).astype(np.uint32)):
            raise SystemExit("the opened sum is another one")
    return {"sharing": sharing, "masking": masking, "opening": opening}


def tables(results: dict[str, Any]) -> str:
    """Markdown: rounds, then the protocol alone."""
    lines = ["| round | seconds | up | down |", "|---|---|---|---|"]
    for way in WAYS:
        for kind, row in results["rounds"].get(way, {}).items():
            up, down = row["up"] / 1e3, row["down"] / 1e3
            lines.append(f"| {way}, {kind} | {row['seconds']:.1f} s | {up:.0f} kB | {down:.0f} kB |")
    lines += ["", "| protocol alone | a client shares | a client masks | the server opens | with one lost |"]
    lines.append("|---|---|---|---|---|")
    for clients, millions in PROTOCOL:
        row = results["protocol"].get(f"{clients}/{millions}")
        if row:
            cells = (row["sharing"], row["masking"], row["opening"]["all"], row["opening"]["one lost"])
            seconds = " | ".join(f"{cell:.2f} s" for cell in cells)
            lines.append(f"| {clients} clients, {4 * millions} MB each | {seconds} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-secure"))
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--fresh", action="store_true", help="measure all of these again")
    chosen = parser.parse_args(arguments)
    results: dict[str, Any] = {"rounds": {}, "protocol": {}}
    if chosen.result.is_file() and not chosen.fresh:
        results |= json.loads(chosen.result.read_text(encoding="utf-8"))
    results["machine"], work = machine(), chosen.work.absolute()

    def keep() -> None:
        chosen.result.parent.mkdir(parents=True, exist_ok=True)
        chosen.result.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    for clients, millions in PROTOCOL:
        if (name := f"{clients}/{millions}") not in results["protocol"]:
            results["protocol"][name] = protocol(clients, millions)
            keep()
    if "difference" not in results:
        results["difference"] = difference(work)
        keep()
    for way in chosen.ways:
        if way not in results["rounds"]:
            results["rounds"][way] = rounds(way, work)
            keep()
    print(tables(results))
    print(f"\nlargest difference after one round: {results['difference']:.2g}")


if __name__ == "__main__":
    main()
