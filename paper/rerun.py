"""``python -m paper.rerun TABLE``: the first rounds of an archived run once more, beside what is kept of them.

Everything is as it was resolved then: clients, ranks, seeds, precision and engine. On another processor, with other
threads or newer libraries, rounding differs, and what is learned after some rounds with it; bytes, owners' weights and
ranks do not. Without further options the run is the table's first one.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polyrank
from paper import archive
from paper.tables import RESULTS, TABLES
from polyrank import config as configuration
from polyrank.config import Config, parse
from polyrank.core.errors import DataError, PolyRankError
from polyrank.core.files import TABLES as ENDINGS
from polyrank.federation.population import digests_of
from polyrank.report.runs import Run, read

EXACT = ("bytes/up", "bytes/down", "rows/owners_weight")
"""Of a round, what no rounding changes."""


def config_of(line: Mapping[str, Any], rounds: int, model: str | None, data: Path | None) -> Config:
    """An archived run's configuration, cut to its first rounds, with local files where they are given.

    Raises:
        DataError: it was of local files, and their folder is not given.
    """
    config = parse(line["config"], line["key"])
    local = [f"federation.rounds={rounds}"]
    if model:
        local.append(f"model.name={model}")
    for name in ("train", "test"):
        value = getattr(config.data, name)
        if value and value.endswith(ENDINGS):  # FOLDER/FILE, as the archive keeps a local one
            if data is None:
                raise DataError(
                    f"{line['key']} was measured on the local file {value}, which paper/RESULTS.md describes: "
                    "give --data the folder that holds it, and --model the model's folder"
                )
            local.append(f"data.{name}={data / value}")
    return configuration.override(config, local)


def rerun(line: Mapping[str, Any], config: Config, folder: Path) -> Run:
    """The run.

    Raises:
        RunFolderError: the archived one had other data or another model.
    """
    archive.check(line["key"], line, digests_of(config))
    polyrank.run(config, folder, overwrite=True)
    return read(folder)


def table(line: Mapping[str, Any], run: Run) -> str:
    """Markdown: the primary metric of each round, then and now, and whether the rest is the same."""
    name = f"test/{run.task.primary.name}"
    rows = [f"| round | {name} then | now | {', '.join(EXACT)} |", "|---|---|---|---|"]
    for then, now in zip(line["lines"], run.lines, strict=False):
        same = "the same" if differing(then, now) == [] else f"other: {', '.join(differing(then, now))}"
        rows.append(f"| {now['round']} | {then[name]:.4g} | {now[name]:.4g} | {same} |")
    return "\n".join(rows)


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Which of `EXACT` are not the same, as far as digits are kept."""
    return [name for name in EXACT if name in then and then[name] != archive.short(now.get(name))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--key", help="of the run, as in the table's file, or how it begins; the first one otherwise")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", metavar="DIR", help="a local model folder, where the run had one")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder with ag_news and dbpedia")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("runs/paper/again"), help="folder of the run")
    chosen = parser.parse_args(arguments)
    kept = archive.load(chosen.results / f"{chosen.table}.jsonl")
    found = [name for name in kept if name.startswith(chosen.key or "")]
    if not found:
        raise SystemExit(f"--key: no run of {chosen.table} begins with {chosen.key!r}; there are {', '.join(kept)}")
    line = kept[found[0]]
    print(f"{found[0]}, from {line['machine']['processor']}")
    try:
        run = rerun(line, config_of(line, chosen.rounds, chosen.model, chosen.data), chosen.work)
    except PolyRankError as error:
        raise SystemExit(str(error)) from None
    print(table(line, run))


if __name__ == "__main__":
    main()
