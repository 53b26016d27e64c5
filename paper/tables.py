"""What was measured, as Markdown: read from ``paper/results``, so it can be printed at any time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from paper import archive
from paper.studies import TABLES
from polyrank.report import tables
from polyrank.report.runs import Run, grouped
from polyrank.report.statistics import area, at_end
from polyrank.report.statistics import compare as compared

RESULTS = Path(__file__).parent / "results"
DIFFERENCES = (
    ("replication", "zero_padding"),
    ("zero_padding-keep_unowned-True", "zero_padding"),
    ("tempered", "replication"),
    ("shrinkage", "replication"),
    ("validated", "replication"),
    ("validated", "zero_padding"),
)
"""Pairs of entries that tables of the kind ``when`` hold: what, and against what."""


def studies(table: str, results: Path = RESULTS) -> dict[str, list[Run]]:
    """Study -> its finished runs, in the order of the studies and of their methods; those without any are left out."""
    lines = archive.load(results / f"{table}.jsonl")
    found: dict[str, list[Run]] = {}
    for study in TABLES[table]:
        runs = [archive.restore(line) for key, line in lines.items() if key.startswith(f"{study.name}/")]
        places = [method.partition(":")[0] for method in study.methods]
        runs.sort(key=lambda run: places.index(run.config.aggregation.method))
        found[study.name] = runs
    return {name: runs for name, runs in found.items() if runs}


def entry(run: Run) -> str:
    """The name that `polyrank.comparison.entries.entries` gave a run."""
    return run.path.parts[1]


def by_entry(runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    """Entry -> seed -> run."""
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        found.setdefault(entry(run), {})[run.seed] = run
    return found


def gaps(
    runs: Mapping[str, Mapping[int, Run]], what: str, against: str, measure: Callable[[Run], float]
) -> dict[int, float]:
    """Seed -> difference of two entries, of the seeds that both have."""
    ours, theirs = runs.get(what, {}), runs.get(against, {})
    return {seed: measure(ours[seed]) - measure(theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())}


def show(table: str, results: Path = RESULTS) -> str:
    """All of a table that is measured."""
    found = studies(table, results)
    if table.startswith("when"):
        return when(found)
    if table == "rates":
        return rates(found)
    if len(TABLES[table]) == 1:
        return "".join(map(comparison, found.values()))
    return "\n\n".join(f"**{name}**\n\n{comparison(runs)}" for name, runs in found.items())


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def comparison(runs: Sequence[Run]) -> str:
    """One row per method."""
    compare = compared(grouped(runs))
    return markdown(tables.headings(compare), (tables.cells(row, compare.metric) for row in compare.rows))


def rates(found: Mapping[str, Sequence[Run]]) -> str:
    """One row per method: its mean over all rounds at each learning rate, in per cent, and the best rate of each seed.

    A rate that is chosen by the first seed is judged by the others: by what it gives there.
    """
    by_rate = {name: by_entry(runs) for name, runs in found.items()}
    head = ["method", *(f"{name}, by seed" for name in by_rate), "chosen by the first seed", "there, the other seeds"]
    rows = []
    for name in dict.fromkeys(name for entries in by_rate.values() for name in entries):
        seeds = {rate: entries.get(name, {}) for rate, entries in by_rate.items()}
        cells = [", ".join(_percent([runs[seed]]) for seed in sorted(runs)) or "-" for runs in seeds.values()]
        first = min(seed for runs in seeds.values() for seed in runs)
        if all(first in runs for runs in seeds.values()):  # nothing is chosen among less than all
            best = max(seeds, key=lambda rate: area(seeds[rate][first]))
            others = [_percent([run]) for seed, run in sorted(seeds[best].items()) if seed != first]
            cells += [best, ", ".join(others) or "-"]
        else:
            cells += ["-", "-"]
        rows.append([name, *cells])
    return markdown(head, rows)


def when(found: Mapping[str, Sequence[Run]]) -> str:
    """One row per setting: mean differences in points, of the mean over all rounds and, in brackets, at the end."""
    head = ["setting", "seeds", "zero padding, mean over all rounds"]
    head += [f"{what} - {against}" for what, against in map(_short, DIFFERENCES)]
    rows = []
    for name, runs in found.items():
        entries = by_entry(runs)
        padded = entries.get("zero_padding", {})
        mean = f"{_percent(padded.values())} %" if padded else "-"
        rows.append([name, _seeds(padded) or "-", mean, *(_cell(entries, *pair) for pair in DIFFERENCES)])
    return markdown(head, rows)


def chosen(found: Mapping[str, Sequence[Run]], what: str = "validated") -> str:
    """One row per setting in which a method was measured: how far it is ahead of each of two others, in points.

    The nearest is the one with the smallest mean difference, whoever made it; each pair by the seeds that both have.
    """
    head = ["setting", "seeds", f"{what}, mean over all rounds", "nearest"]
    head += [f"{what} - {other}" for other in ("nearest", "replication")]
    rows = []
    for name, runs in found.items():
        entries = by_entry(runs)
        shared = {other: gaps(entries, what, other, area) for other in entries if other != what}
        shared = {other: gap for other, gap in shared.items() if gap}
        if not shared:
            continue
        nearest = min(shared, key=lambda other: statistics.fmean(shared[other].values()))
        ours = entries[what]
        pairs = [_cell(entries, what, other) for other in (nearest, "replication")]
        rows.append([name, _seeds(ours), f"{_percent(ours.values())} %", *_short((nearest,)), *pairs])
    return markdown(head, rows)


def _percent(runs: Iterable[Run]) -> str:
    return f"{100 * statistics.fmean(map(area, runs)):.1f}"


def _seeds(runs: Mapping[int, Run]) -> str:
    return ", ".join(map(str, sorted(runs)))


def _short(names: Sequence[str]) -> list[str]:
    return [name.replace("-keep_unowned-True", " keep_unowned") for name in names]


def _cell(entries: Mapping[str, Mapping[int, Run]], what: str, against: str) -> str:
    areas, ends = (gaps(entries, what, against, measure) for measure in (area, at_end))
    if not areas:
        return "-"
    values = [100 * statistics.fmean(of.values()) for of in (areas, ends)]
    spread = f" ± {100 * statistics.stdev(areas.values()):.1f}" if len(areas) > 1 else ""
    return f"{values[0]:+.1f}{spread} ({values[1]:+.1f})"
