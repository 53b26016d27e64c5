"""Everything that a change of the inside must leave as it is, bit for bit, written down and compared.

    python -m tools.record before.json                 # in the environment of one commit
    python -m tools.record after.json                  # the same machine, another commit
    python -m tools.record --compare before.json after.json

Three rounds of the quickstart for every method of the registry, and of what a method does not reach: the scoring of
clients, self-pruning, a local head, an alignment, uniform weights, scales by rank, both engines, two processes, a run
that was stopped and resumed; a comparison with its table, a report, merges, exports, a simulation on Flower. Of each
the adapter's tensors, the metrics, the summary and what was printed; times, memory, versions and paths are left out.
Only
the public interface is used, so that the same script runs on both commits. ``--only`` takes words that a
record's name must contain.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polyrank

ROUNDS = 3
FIXED = [
    "training.precision=float32",
    "training.attention=eager",
    "training.engine=batched",
    "training.clients_per_pass=4",
    "training.workers=1",
    f"federation.rounds={ROUNDS}",
    "ranks.policy=random",
]
"""Nothing is measured to choose anything: two starts give the same."""

BEYOND: Mapping[str, Sequence[str]] = {
    "scored clients": ["ranks.policy=validation"],
    "self-pruning": ["ranks.policy=self_pruning", "aggregation.method=hetlora", "ranks.prune_weight=0.1"],
    "local head": ["federation.head=local"],
    "rotation": ["aggregation.method=zero_padding", 'aggregation.options={align="rotation"}'],
    "rectangular": ["aggregation.method=owner_mean", 'aggregation.options={align="rectangular"}'],
    "three levels": ["ranks.levels=[2,5,20]", "ranks.shares=[0.5,0.3,0.2]"],
    "owners as donors": ["ranks.levels=[2,5,20]", "ranks.shares=[0.5,0.3,0.2]", 'aggregation.options={donor="owners"}'],
    "min_owners": ["aggregation.options={min_owners=3}"],
    "keep_unowned": ["aggregation.method=zero_padding", "aggregation.options={keep_unowned=true}"],
    "base change cut": ["aggregation.method=flora", "aggregation.options={max_rank=8}"],
    "uniform": ["aggregation.weights=uniform"],
    "scales by rank": ["ranks.scaling=rslora", "ranks.alpha=8", "aggregation.method=flexlora"],
    "sequential": ["training.engine=sequential"],
    "two processes": ["training.workers=2"],
    "sgd, decay, schedule, dropout": [
        "training.optimizer=sgd",
        "training.lr=0.05",
        "training.momentum=0.9",
        "training.weight_decay=0.01",
        "training.warmup=0.2",
        "training.decay=cosine",
        "training.epochs=2",
        "model.dropout=0.1",
    ],
    "bfloat16": ["training.precision=bfloat16"],
    "rare evaluation": ["evaluation.every=2"],
    "dirichlet": ["data.partition=dirichlet"],
    "by-label": ["data.partition=by-label", "federation.clients=30"],
}
LEFT_OUT = re.compile(
    r"^(seconds|tokens(/.*)?|memory/.*|time(/.*)?|train/seconds|versions?|machine|started|python|platform|data|torch)$"
)
"""Keys that two runs of one commit may differ in."""

Record = Mapping[str, Any]  # Any: JSON


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--compare", action="store_true", help="compare two files instead of making one")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD")
    chosen = parser.parse_args()
    if chosen.compare:
        before, after = (json.loads(path.read_text(encoding="utf-8")) for path in chosen.files)
        found = list(differences(before, after))
        print("\n".join(found) or f"{len(before)} records, all identical")
        sys.exit(bool(found))
    (path,) = chosen.files
    done: dict[str, Any] = {}
    for name, make in records():
        if all(word in name for word in chosen.only):
            with tempfile.TemporaryDirectory(prefix="record-") as folder:
                done[name] = make(Path(folder))
            print(name, digest(json.dumps(done[name], sort_keys=True).encode()), flush=True)
            path.write_text(json.dumps(done, indent=1, sort_keys=True), encoding="utf-8")


def records() -> Iterator[tuple[str, Callable[[Path], Record]]]:
    """Each record's name, and what makes it in an empty folder."""
    for method, cls in polyrank.METHODS.items():
        equal = ["ranks.levels=[8]"] if cls.info.equal_ranks else []
        yield f"method {method}", lambda folder, own=(f"aggregation.method={method}", *equal): run(folder, own)
    for name, own in BEYOND.items():
        yield name, lambda folder, own=own: run(folder, own)
    yield "resumed", resumed
    yield "compared and reported", compared
    yield "merged", merged
    yield "exported", exported
    yield "flower", flower


def run(folder: Path, overrides: Sequence[str]) -> Record:
    """Three rounds."""
    polyrank.run(polyrank.load_config(overrides=[*FIXED, *overrides]), folder / "run")
    return of_run(folder / "run")


def resumed(folder: Path) -> Record:
    """Two rounds, then one more in a call of its own."""
    polyrank.run(polyrank.load_config(overrides=[*FIXED, "federation.rounds=2"]), folder / "run")
    command("run", "--resume", "--out", folder / "run", "--set", f"federation.rounds={ROUNDS}")
    return of_run(folder / "run")


def compared(folder: Path) -> Record:
    """Three methods with two seeds: the table's figures, the page's tables and its answer."""
    sets = [word for one in [*FIXED, "federation.clients=20"] for word in ("--set", one)]
    methods = ["--methods", "replication,zero_padding,flexlora", "--seeds", "0,1"]
    table = command("compare", *methods, *sets, "--out", folder / "study", "--json")
    command("report", folder / "study")
    page = next(folder.rglob("*.html")).read_text(encoding="utf-8")
    answer = re.findall(r'<p class="answer">(.*?)</p>', page, re.DOTALL)
    cells = [
        html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)
    ]
    timeless = [cell for cell in cells if not re.search(r"\d+(\.\d+)? (s|min|h|MiB|GiB)\b|/", cell)]
    return {"table": plain(json.loads(table)), "answer": answer, "cells": timeless}


def merged(folder: Path) -> Record:
    """Adapters of three runs as one, by methods of both kernels."""
    for seed, rank in enumerate((3, 5, 8)):
        own = [
            f"federation.seed={seed}",
            f"ranks.levels=[{rank}]",
            "federation.clients=20",
            "aggregation.method=fedavg",
        ]
        polyrank.run(polyrank.load_config(overrides=[*FIXED, *own]), folder / f"run{seed}")
    made = {}
    for method in ("replication", "zero_padding", "flexlora", "flora", "fedex", "raflora", "lora_fair"):
        inputs = [folder / f"run{seed}" / "adapter" for seed in range(3)]
        out = folder / method
        said = command("merge", *inputs, "--weights", "3,2,1", "--method", method, "-o", out, "--json")
        made[method] = {"adapter": of_folder(out), "said": plain(json.loads(said))}
    return made


def exported(folder: Path) -> Record:
    """An adapter of another rank, and the merged model."""
    polyrank.run(polyrank.load_config(overrides=[*FIXED, "aggregation.method=flora"]), folder / "run")
    command("export", folder / "run", "--rank", "7", "-o", folder / "seven")
    command("export", folder / "run", "--merged", "-o", folder / "whole")
    return {"rank 7": of_folder(folder / "seven"), "merged": of_folder(folder / "whole")}


def flower(folder: Path) -> Record:
    """Three rounds of four clients on Flower's simulated nodes."""
    own = ["federation.clients=4", "federation.participation=0.5", 'training.engine="sequential"', "data.size=40"]
    sets = [word for one in [*FIXED, *own] for word in ("--set", one)]
    command("flower", "init", folder / "app", *sets, "--out", folder / "run")
    with superlink(folder / "home") as environment:
        app = [script("flwr"), "run", ".", "--stream", "--federation-config", "num-supernodes=4"]
        done = subprocess.run(app, cwd=folder / "app", env=environment, capture_output=True, text=True, check=False)
    if not (folder / "run" / "summary.json").exists():
        raise SystemExit(f"the simulation on Flower failed:\n{done.stdout}\n{done.stderr}")
    return of_run(folder / "run")


@contextmanager
def superlink(home: Path) -> Iterator[dict[str, str]]:
    """An environment in which Flower asks nothing of the network; what it starts is ended afterwards."""
    home.mkdir()
    switches = {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "39471",
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    try:
        yield {**os.environ, **switches, "PATH": path}
    finally:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                ours = f"FLWR_HOME={home}".encode() in (process / "environ").read_bytes()
            except OSError:
                continue
            if ours and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)


def script(name: str) -> str:
    """A command of this environment."""
    return str(Path(sys.executable).parent / name)


def command(*words: object) -> str:
    """What a command of PolyRank prints.

    Raises:
        SystemExit: it fails; its last words are printed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "polyrank", *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"polyrank {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def of_run(folder: Path) -> Record:
    """What a run folder holds, but for times, versions and bytes of checkpoints."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "adapter": of_folder(folder / "adapter"),
        "metrics": [plain(json.loads(line)) for line in lines],
        "summary": plain(json.loads((folder / "summary.json").read_text(encoding="utf-8"))),
        "clients": plain(json.loads((folder / "clients.json").read_text(encoding="utf-8"))),
    }


def of_folder(folder: Path) -> Record:
    """Digests of the tensors in a folder, and its configuration."""
    weights = {path.name: digest(path.read_bytes()) for path in sorted(folder.glob("*.safetensors"))}
    configuration = {
        path.name: plain({**json.loads(path.read_text(encoding="utf-8")), "base_model_name_or_path": None})
        for path in sorted(folder.glob("*config.json"))
    }
    return {**weights, **configuration}


def plain(value: Any) -> Any:  # Any: JSON
    """The value without what two runs of one commit may differ in, at any depth."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if not LEFT_OUT.match(key)}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return re.sub(r"\S*record-\S*", "PATH", value) if isinstance(value, str) else value


def digest(data: bytes) -> str:
    """Sixteen digits of SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:  # Any: JSON
    """A line for each place in which two records differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if key not in before or key not in after:
                yield f"{where}/{key}: only {'after' if key in after else 'before'}"
            else:
                yield from differences(before[key], after[key], f"{where}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{where}[{index}]")
    elif before != after:
        yield f"{where}: {str(before)[:80]} before, {str(after)[:80]} after"


if __name__ == "__main__":
    main()
