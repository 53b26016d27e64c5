"""``python -m paper.run advice``: whether `polyrank advise` would have been right, in every setting that was measured.

Without a pilot the advice follows from the setting's configuration alone. A pilot is read off the recorded runs: of its
candidates the one with the best mean over the first rounds of the first seed. (A real one measures on the server's
validation set; the runs recorded the test set.) Right is a method that is behind the best one by no more than the
standard deviation, over the seeds, of the difference; with one seed, by no more than a point.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paper.studies import TABLES
from paper.tables import RESULTS, by_entry, gaps, studies
from polyrank import ranks
from polyrank.advice.candidates import PILOTED, by_rules
from polyrank.advice.pilot import PILOT_ROUNDS
from polyrank.config import Config
from polyrank.data import client_names
from polyrank.federation.planned import Planned
from polyrank.federation.population import DEFAULT_CLIENTS
from polyrank.ranks.levels import level_counts
from polyrank.ranks.policy import spread
from polyrank.report.runs import Run
from polyrank.report.statistics import area

POINT = 0.01
"""The spread that is taken where there is one seed."""


@dataclass(frozen=True)
class Scored:
    """An advice against what was measured.

    Args:
        setting: its name.
        seeds: that all of its methods have.
        best: the best method over the seeds.
        advised: what was advised; None where it was not measured there.
        regret: how far it is behind the best one, in the task's first metric.
        right: whether that is within the spread.
    """

    setting: str
    seeds: int
    best: str
    advised: str | None
    regret: float
    right: bool


def score(results: Path = RESULTS) -> dict[str, list[Scored]]:
    """``rules`` and ``pilot`` -> the settings in which two methods or more were measured, `validated` among them."""
    found: dict[str, list[Scored]] = {"rules": [], "pilot": []}
    for table in TABLES:
        for name, runs in studies(table, results).items():
            entries = by_entry(runs)
            if "validated" not in entries or len(entries) < 2:
                continue
            config = next(iter(entries["validated"].values())).config
            setting = f"{table.removeprefix('when_')} {name}"
            found["rules"].append(_scored(setting, entries, by_rules(config, _clients(config)).method))
            found["pilot"].append(_scored(setting, entries, _piloted(entries)))
    return found


def _clients(config: Config) -> Planned:
    """As many clients of each level as the configuration says, whoever they are."""
    policy = ranks.policy(config.ranks)
    names = client_names(config.federation.clients or DEFAULT_CLIENTS)
    first = spread(names, level_counts(config.ranks, len(names)), config.ranks)
    return Planned(policy, first, first)


def _piloted(entries: Mapping[str, Mapping[int, Run]]) -> str:
    candidates = {name: own for name, own in entries.items() if name in PILOTED or name.startswith("fedavg-rank-")}
    seed = min(set.intersection(*(set(own) for own in candidates.values())))

    def early(name: str) -> float:
        run = candidates[name][seed]
        return run.task.primary.merit(statistics.fmean(run.values[:PILOT_ROUNDS]))

    return max(candidates, key=early)


def _scored(setting: str, entries: Mapping[str, Mapping[int, Run]], advised: str) -> Scored:
    seeds = set(entries["validated"])
    shared = {name: own for name, own in entries.items() if seeds <= set(own)}
    metric = next(iter(entries["validated"].values())).task.primary
    mean = {name: statistics.fmean(metric.merit(area(own[seed])) for seed in seeds) for name, own in shared.items()}
    best = max(mean, key=lambda name: mean[name])
    if advised not in mean:
        return Scored(setting, len(seeds), best, None, math.nan, right=False)
    differences = [gap for seed, gap in gaps(shared, best, advised, area).items() if seed in seeds]
    spread_out = statistics.stdev(differences) if len(differences) > 1 else POINT
    regret = mean[best] - mean[advised]
    return Scored(setting, len(seeds), best, advised, regret, right=regret <= spread_out)


def table(found: Mapping[str, list[Scored]]) -> str:
    """Markdown: a row per setting, and how often each kind of advice was right."""
    lines = [
        "| setting | seeds | best | without a pilot | behind, points | with a pilot | behind, points |",
        "|---|---|---|---|---|---|---|",
    ]
    for rules, pilot in zip(found["rules"], found["pilot"], strict=True):
        cells = [rules.setting, str(rules.seeds), rules.best]
        for one in (rules, pilot):
            cells += [one.advised or "not measured", "-" if one.advised is None else f"{100 * one.regret:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    for kind, words in (("rules", "Without a pilot"), ("pilot", "With a pilot")):
        own = [one for one in found[kind] if one.advised is not None]
        if own:
            worst = max(own, key=lambda one: one.regret)
            lines += [
                "",
                f"{words}: within the spread of the best in {sum(one.right for one in own)} of {len(own)} settings; at "
                f"worst {100 * worst.regret:.1f} points behind ({worst.setting}).",
            ]
    return "\n".join(lines)
