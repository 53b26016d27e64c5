"""``python -m paper.run TABLE``: measure what is missing of a table, then print it.

Tables:

- ``cost``: LoRA parameters and bytes per client on DistilBERT's shape (Byun and Lee, section 4);
- ``diagnostic``: one round: a high-quality client alone, after zero padding, after replication;
- ``quickstart``: the methods that keep A and B apart, on the embedded model and text: the README's table;
- ``curves``: the seed paper's methods on AG News and DBpedia;
- ``main``: the methods that lead somewhere, on AG News, five seeds;
- ``rates``: the same at four learning rates;
- ``methods``: every method of the registry on AG News, with two rank plans;
- ``generative``: every method on models that write: Dolly's answers and the standard library's docstrings;
- ``smollm2``: three methods on Dolly with SmolLM2-135M-Instruct (``--model``);
- ``when_quickstart``, ``when_ag_news``: one setting at a time changed;
- ``check``: the best of them on TREC-6 and DBpedia, which had no part in choosing;
- ``advice``: whether `polyrank advise` would have been right, from the runs of all tables;
- ``gamma``: `tempered` from owner mean to zero padding.

Without further options models and data come from the Hub. Where it cannot be reached, ``--model`` names a local
model folder and ``--data`` a folder that holds ``ag_news``, ``dbpedia`` and ``trec6``, each with train.csv and test.csv
(columns ``text`` and ``label``). Finished runs are kept in ``paper/results/TABLE.jsonl`` and never run again;
``--minutes`` ends the work after the run that exceeds it, so a study can be made in pieces; what another table has is
taken from there, whatever the time. ``--show`` prints what is kept and needs neither model nor data. Engine, precision
and attention (``--set``) are no part of what a run is; each result says which it had, and on what data and model it was
measured: a run is never put beside one of others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from paper import advice, archive, cost, diagnostic
from paper.studies import TABLES, Study
from paper.tables import RESULTS, show
from polyrank import config as configuration
from polyrank.comparison.compare import Planned, compare
from polyrank.comparison.entries import Entry, entries
from polyrank.config import Config
from polyrank.core.errors import PolyRankError
from polyrank.federation.population import digests_of
from polyrank.federation.scoring import Known
from polyrank.quickstart import config_path
from polyrank.report.runs import read
from polyrank.tasks.metric import TEST

HERE = Path(__file__).parent


def load_config(data: str, overrides: Sequence[str], model: str | None, folder: Path | None) -> Config:
    """A study's configuration, with the local model and data where they are given."""
    if data == "quickstart":
        return configuration.load(None, ["evaluation.rank_groups=false", *overrides])
    if data == "generative":
        return configuration.load(config_path(data), ["evaluation.rank_groups=false", *overrides])
    local: list[str] = []
    if model:
        local += [f"model.name={model}", *(() if data == "dolly" else ("model.targets=default",))]
    if folder:
        files, suffix = folder / data, "jsonl" if data == "dolly" else "csv"
        local += [
            f"data.train={files / f'train.{suffix}'}",
            f"data.test={files / f'test.{suffix}'}",
            "data.text=text",
            "data.label=label",
        ]
    return configuration.load(HERE / "configs" / f"{data}.toml", [*local, *overrides])


def planned(study: Study, config: Config) -> Iterator[tuple[Entry, int]]:
    """All runs of a study, seed by seed; each method with the data that it takes by itself."""
    for seed in study.seeds:
        for method in study.methods:
            for entry in entries(config, [method], study.baseline_ranks):
                yield entry, seed


def measure(table: str, chosen: argparse.Namespace) -> bool:
    """Run what is missing; False if the time was over before all of it was done."""
    path, start = chosen.results / f"{table}.jsonl", time.monotonic()
    for study in TABLES[table]:
        if chosen.studies and study.name not in chosen.studies:
            continue
        config = load_config(study.data, [*study.overrides, *chosen.set], chosen.model, chosen.data)
        scores: Known = {}
        wanted = {archive.key(study.name, e.name, e.seeded(s)): (e, s) for e, s in planned(study, config)}
        kept = archive.load(path)
        missing = {name: one for name, one in wanted.items() if name not in kept}
        missing = {name: one for name, one in missing.items() if one[1] in (chosen.seeds or study.seeds)}
        missing = {name: one for name, one in missing.items() if not chosen.methods or one[0].name in chosen.methods}
        found = digests_of(config) if missing else {}
        beside = {name: kept[name] for name in wanted if name in kept} if missing else {}
        for name, line in beside.items():
            archive.check(name, line, found)
        if unknown := sum(not line.get("digests") for line in beside.values()):
            print(f"{study.name}: {unknown} runs were kept without a digest of data and model; taken as of the same")
        others = archive.elsewhere(chosen.results) if missing else {}
        for name in list(missing):
            if (same := others.get(name.partition("/")[2])) is not None:
                archive.check(name, same, found)
                archive.copy(path, name, same)
                del missing[name]
        for name, (entry, seed) in missing.items():
            if chosen.minutes is not None and time.monotonic() - start > 60 * chosen.minutes:
                return False
            out = chosen.work / table / study.name
            (folder,) = compare([Planned(entry, seed, out / entry.name / f"seed-{seed}")], out, scores=scores)
            run = read(folder)
            archive.append(path, name, run)
            assert run.summary is not None
            quality = run.summary[f"{TEST}{run.task.primary.name}"]
            print(f"{name}: {quality:.4g}, {run.summary['seconds']:.0f} s", flush=True)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["cost", "diagnostic", "advice", *TABLES])
    parser.add_argument("--model", metavar="DIR", help="a local model folder, in place of DistilBERT from the Hub")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="a folder with ag_news and dbpedia, in place of the Hub"
    )
    parser.add_argument("--studies", nargs="+", help="some of the table's studies")
    parser.add_argument("--methods", nargs="+", help="some of the studies' methods, by their names in the results")
    parser.add_argument("--seeds", nargs="+", type=int, help="some of the studies' seeds")
    parser.add_argument("--minutes", type=float, help="start no run after so many minutes")
    parser.add_argument("--show", action="store_true", help="run nothing: print what is kept")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="training.NAME=VALUE", help="how it is computed, in place of a trial"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/paper"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    chosen = parser.parse_args(arguments)
    if chosen.table == "cost":
        print(cost.table())
    elif chosen.table == "advice":
        print(advice.table(advice.score(chosen.results)))
    elif chosen.table == "diagnostic":
        print(diagnostic.table(diagnostic.measure(chosen)))
    else:
        try:
            complete = chosen.show or measure(chosen.table, chosen)
        except PolyRankError as error:
            raise SystemExit(f"{error}\n(--show prints what is kept, without model and data)") from None
        print(show(chosen.table, chosen.results))
        if not complete:
            print("\nnot complete yet: the same command goes on")


if __name__ == "__main__":
    main()
