"""What privacy costs, and what it keeps: ``python -m benchmarks.privacy``.

**accuracy**: test accuracy after the last round at epsilon 1, 3, 8 and without privacy, for methods that train one
factor and such that train both, on the quickstart's data and, with ``--ag-news``, on AG News; the embedded backbone, a
thousand clients of twelve examples each, a fifth of them in a round. Learning rate and bound are those of ``PLAN``, the
same for all budgets (``--set`` tries others, into another ``--work``).

**membership**: who can tell from the final adapter whether a text was trained on? The data are halved; a target is
trained on one half, a reference on the other. The attacks are a threshold on the target's loss (Yeom et al. 2018), and
one on that loss less the reference's (which knows how hard a text is by itself). AUC with the 95 % interval of a
bootstrap over texts; 0.5 is guessing.

Finished runs are kept in ``--work``. Prints tables and writes ``benchmarks/results/privacy.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polyrank
from benchmarks.machine import machine
from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.state import ServerState
from polyrank.federation.population import load_data
from polyrank.federation.round import global_model
from polyrank.federation.server import Server
from polyrank.runs import checkpoint
from polyrank.runs.listener import Listener
from polyrank.training.evaluate import batches

RESULT = Path(__file__).parent / "results" / "privacy.json"
BUDGETS: tuple[float | None, ...] = (None, 8.0, 3.0, 1.0)
PLAN: Mapping[str, tuple[float, tuple[float, float, float]]] = {
    "ffa": (1e-1, (10.0, 10.0, 3.0)),
    "fedsvd": (1e-1, (3.0, 3.0, 3.0)),
    "rolora": (1e-1, (3.0, 3.0, 3.0)),
    "owner_mean": (3e-2, (1.0, 0.3, 0.1)),
    "replication": (3e-2, (1.0, 0.3, 0.1)),
}
"""Method -> learning rate, and the bound at epsilon 8, 3 and 1: the best on the quickstart's data, seed 0, of 0.1, 0.3,
1, 3 and 10, as far as docs/trust.md says that they were tried; learning rates are not tuned."""
DATA = ("stdlib-docs", "AG News")
COMMON = (
    *("data.partition=iid", "data.max_tokens=32", "data.limit_train=12000", "data.limit_test=1000"),
    *("federation.clients=1000", "federation.participation=0.2", "federation.rounds=20"),
    *("ranks.policy=fixed", "ranks.levels=[2,8]", "ranks.shares=[0.9,0.1]", "aggregation.weights=uniform"),
    *("evaluation.every=20", "evaluation.diagnostics=false", "evaluation.rank_groups=false"),
    *("training.engine=batched", "training.clients_per_pass=10", "training.workers=1", "training.lanes=1"),
    *("training.precision=bfloat16", "training.attention=eager"),
)
CROWDED = (
    *("data.partition=iid", "data.max_tokens=32", "data.limit_train=2000", "federation.clients=20"),
    *("federation.participation=1.0", "federation.rounds=30", "training.epochs=4", "training.lr=2e-3"),
)
"""Few clients that see their texts again and again: what leaks most."""


def config_of(data: str, ag_news: Path | None, more: Sequence[str]) -> Config:
    """A configuration of the study."""
    place: tuple[str, ...] = ()
    if data == "AG News":
        assert ag_news is not None
        place = (f"data.train={ag_news / 'train.csv'}", f"data.test={ag_news / 'test.csv'}")
    return configuration.load(None, [*COMMON, *place, *more])


def bound(method: str, budget: float | None) -> float:
    """Of ``PLAN``; without a budget it is not used."""
    return 0.0 if budget is None else PLAN[method][1][BUDGETS.index(budget) - 1]


def privately(budget: float | None, clip: float) -> tuple[str, ...]:
    """Settings of a budget."""
    return () if budget is None else ("privacy.model=central", f"privacy.budget={budget}", f"privacy.clip={clip}")


def accuracy(data: str, method: str, budget: float | None, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """One run; read from the folder where it is finished."""
    folder = chosen.work / f"{data}-{method}-{budget}-{seed}".replace(" ", "_")
    if not (folder / "summary.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        lr = PLAN[method][0]
        private = privately(budget, bound(method, budget))
        own = (f"aggregation.method={method}", f"training.lr={lr}", f"federation.seed={seed}", *private)
        polyrank.run(config_of(data, chosen.ag_news, [*own, *chosen.set]), folder)
        for name in ("checkpoint", "adapter"):
            shutil.rmtree(folder / name, ignore_errors=True)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    about = {"data": data, "method": method, "budget": budget, "seed": seed}
    spent = {"epsilon": summary.get("privacy/epsilon"), "noise": summary.get("privacy", {}).get("noise")}
    return {**about, **spent, "accuracy": summary["test/accuracy"], "constant": summary["constant/accuracy"]}


def accuracy_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: mean over the seeds, and the standard deviation."""
    lines = []
    for data in dict.fromkeys(run["data"] for run in runs):
        own = [run for run in runs if run["data"] == data]
        seeds = sorted({run["seed"] for run in own})
        count = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
        lines += [f"{data}, {count}; always the commonest class: {100 * own[0]['constant']:.1f} %", ""]
        budgets = [budget for budget in BUDGETS if any(run["budget"] == budget for run in own)]
        heads = ["without privacy" if budget is None else f"epsilon {budget:g}" for budget in budgets]
        lines += [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for method in dict.fromkeys(run["method"] for run in own):
            cells = []
            for budget in budgets:
                found = [100 * r["accuracy"] for r in own if (r["method"], r["budget"]) == (method, budget)]
                spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
                cells.append(f"{statistics.fmean(found):.1f}{spread}" if found else "-")
            lines.append(f"| `{method}` | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


class Losses(Listener):
    """Each test text's loss under a run's last adapter.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: list[float] = []

    def on_start(self, server: Server, state: ServerState) -> None:  # noqa: ARG002
        self._site = server.site

    def on_end(self, summary: Mapping[str, Any]) -> None:  # noqa: ARG002
        site = self._site
        site.resident.install(global_model(checkpoint.load(self.folder / "checkpoint")))
        found = np.zeros(len(site.test))
        with torch.inference_mode(), site.resident.computing():
            for rows, batch in batches(site.resident, site.task, site.test, 256):
                found[rows] = site.task.losses(site.resident.model, batch).float().numpy()
        self.found = [float(loss) for loss in found]


def halves(work: Path, more: Sequence[str]) -> tuple[Path, Path, Path]:
    """Two disjoint halves of the quickstart's training texts, and both together."""
    paths = work / "half-0.jsonl", work / "half-1.jsonl", work / "both.jsonl"
    if not paths[2].is_file():
        train = load_data(configuration.load(None, list(more))).train
        pairs = zip(train.texts, train.labels, strict=True)
        rows = [json.dumps({"text": text, "label": train.label_names[label]}) + "\n" for text, label in pairs]
        for path, own in zip(paths, (rows[::2], rows[1::2], rows), strict=True):
            path.write_text("".join(own), encoding="utf-8")
    return paths


def losses_after(train: Path, probe: Path, folder: Path, settings: Sequence[str]) -> list[float]:
    """Each text's loss in ``probe`` under an adapter trained on ``train``; read where it was done."""
    kept = folder.with_suffix(".json")
    if not kept.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        listener = Losses(folder)
        config = configuration.load(None, [*settings, f"data.train={train}", f"data.test={probe}"])
        config = config.model_copy(update={"data": config.data.model_copy(update={"limit_train": None})})
        polyrank.run(config, folder, listener=listener)
        if not listener.found:
            raise SystemExit(f"{folder}: the losses were not measured; the run's log says why")
        kept.write_text(json.dumps(listener.found), encoding="utf-8")
    found: list[float] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """The probability that a member scores higher."""
    ranks = np.concatenate([members, others]).argsort(kind="stable").argsort(kind="stable") + 1
    own = ranks[: len(members)].sum() - len(members) * (len(members) + 1) / 2
    return float(own / (len(members) * len(others)))


def interval(members: np.ndarray, others: np.ndarray, draws: int = 500) -> tuple[float, float]:
    """Of 95 %, by drawing texts with replacement."""
    random = np.random.default_rng(0)
    found = [auc(random.choice(members, len(members)), random.choice(others, len(others))) for _ in range(draws)]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def membership(work: Path) -> list[dict[str, Any]]:
    """AUC of both attacks on each way to train."""
    lr = PLAN["ffa"][0]
    plain = tuple(one for one in COMMON if not one.startswith("data.limit_"))
    many = (*plain, "federation.clients=500", "aggregation.method=ffa", f"training.lr={lr}")
    ways = {
        "20 clients, 30 rounds of 4 epochs, replication": (*CROWDED, "ranks.policy=random"),
        "500 clients, 20 rounds, ffa": many,
        "500 clients, 20 rounds, ffa, epsilon 8": (*many, *privately(8.0, bound("ffa", 8.0))),
        "500 clients, 20 rounds, ffa, epsilon 1": (*many, *privately(1.0, bound("ffa", 1.0))),
    }
    rows = []
    for name, settings in ways.items():
        limits = [one for one in settings if one.startswith("data.limit_train")]
        place = work / ("few" if limits else "all")
        place.mkdir(parents=True, exist_ok=True)
        first, second, both = halves(place, limits)
        slug = name.replace(" ", "_").replace(",", "")
        target = -np.array(losses_after(first, both, place / f"target-{slug}", settings))
        reference = -np.array(losses_after(second, both, place / f"reference-{slug}", settings))
        for attack, scores in (("loss", target), ("loss less a reference's", target - reference)):
            members, others = scores[::2], scores[1::2]
            low, high = interval(members, others)
            rows.append({"training": name, "attack": attack, "auc": auc(members, others), "low": low, "high": high})
    return rows


def membership_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = ["| training | attack: threshold on | AUC | 95 % interval |", "|---|---|---|---|"]
    for row in rows:
        span = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(f"| {row['training']} | {row['attack']} | {row['auc']:.3f} | {span} |")
    return "\n".join(lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/privacy"), help="folder of finished runs")
    parser.add_argument("--ag-news", type=Path, help="folder with train.csv and test.csv")
    parser.add_argument("--parts", nargs="*", default=["accuracy", "membership"])
    parser.add_argument("--on", nargs="*", default=list(DATA), help="some of the data sets")
    parser.add_argument("--methods", nargs="*", default=list(PLAN))
    parser.add_argument("--budgets", nargs="*", type=float, help="0 is no privacy")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], help="other settings, to choose the plan by")
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args()
    chosen.work = chosen.work.absolute()
    budgets = BUDGETS if chosen.budgets is None else [budget or None for budget in chosen.budgets]
    found: dict[str, Any] = {"machine": machine(), "settings": {"common": list(COMMON), "plan": dict(PLAN)}}
    if chosen.result.is_file():
        found = {**json.loads(chosen.result.read_text(encoding="utf-8")), **found}
    if "accuracy" in chosen.parts:
        found["accuracy"] = [
            accuracy(data, method, budget, seed, chosen)
            for data in DATA[: 2 if chosen.ag_news else 1]
            if data in chosen.on
            for seed in chosen.seeds
            for method in chosen.methods
            for budget in budgets
        ]
        print(accuracy_table(found["accuracy"]))
    if "membership" in chosen.parts:
        found["membership"] = membership(chosen.work / "membership")
        print(membership_table(found["membership"]))
    chosen.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
