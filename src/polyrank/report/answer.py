"""The answer in one sentence with its numbers, and what a reader must know before believing it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from polyrank.report.ending import unfinished
from polyrank.report.figure import Groups, listed
from polyrank.report.runs import Run, of_answers
from polyrank.report.statistics import LAST, Comparison, Difference, Row, at_end
from polyrank.tasks import Metric
from polyrank.tasks.metric import TEST


def sentence(groups: Groups, comparison: Comparison) -> str:
    """What came out: for one method its primary metric, for several the best one against the reference.

    Where the best is the reference itself, it is set against the second best. The best was picked because it came out
    best, so a difference is called one only if its p-value is small after Holm's correction for the number of methods
    (see `polyrank.report.statistics.holm`).
    """
    if len(comparison.rows) == 1:
        return _alone(comparison.rows[0], groups[comparison.rows[0].name], comparison)
    best, second = sorted(comparison.rows, key=lambda row: -comparison.metric.merit(row.end.mean))[:2]
    other = second if best.name == comparison.reference else comparison.row(comparison.reference)
    return _against(best, other, groups, comparison)


def notices(groups: Groups) -> list[str]:
    """What limits the answer: runs that are not finished, values that are not, updates left out, single seeds."""
    said: list[str] = []
    for name, runs in groups.items():
        for run in runs:
            if why := unfinished(run):
                said.append(f"{name}, seed {run.seed}, {why}.")
            if lost := sum(not math.isfinite(value) for value in run.values):
                title, rounds = run.task.primary.title, "1 evaluated round" if lost == 1 else f"{lost} evaluated rounds"
                said.append(f"{name}, seed {run.seed}: the test {title} was no finite number in {rounds}.")
            if dropped := sum(len(line.get("dropped") or ()) for line in run.lines):
                counted = "update of a client was" if dropped == 1 else "updates of clients were"
                said.append(f"{name}, seed {run.seed}: {dropped} {counted} left out; they are listed below.")
    everyone = [run for runs in groups.values() for run in runs]
    if len(everyone) > 1 and any(run.digests is None for run in everyone):
        said.append(
            "Some runs are of an earlier PolyRank, which did not keep what their data and model held: that these are "
            "the same in all runs is not known."
        )
    schedules = [_evaluated_until(run, min(other.rounds[-1] for other in everyone)) for run in everyone]
    if any(schedule != schedules[0] for schedule in schedules):
        said.append("The runs were not evaluated in the same rounds, so means over rounds are of different rounds.")
    single = [name for name, runs in groups.items() if len(runs) == 1]
    if single:
        who = "Every method" if len(single) == len(groups) > 1 else listed(single)
        verb = "has" if len(single) == 1 or who == "Every method" else "have"
        said.append(f"{who} {verb} one seed, which says nothing about chance.")
    ends = sorted({run.rounds[-1] for runs in groups.values() for run in runs})
    if len(ends) > 1:
        said.append(
            f"The runs end between rounds {ends[0]} and {ends[-1]}, so their values at the end are of different rounds."
        )
    return said


def _evaluated_until(run: Run, last: int) -> list[int]:
    """The evaluated rounds up to one that every run has reached; a run's own last round is no part of its schedule."""
    return [number for number in run.rounds if number < last]


def reached(values: Sequence[int | None], words: Sequence[str]) -> str | None:
    """When the seeds of a method reached the target; None if none did.

    Args:
        values: one per seed.
        words: the same as text.

    >>> reached([7, 9, None], ["7", "9", "-"]), reached([7], ["7"])
    ('7 to 9 (2 of 3 seeds)', '7')
    """
    there = sorted((value, word) for value, word in zip(values, words, strict=True) if value is not None)
    if not there:
        return None
    first, last = there[0][1], there[-1][1]
    span = first if first == last else f"{first} to {last}"
    return span if len(there) == len(values) else f"{span} ({len(there)} of {len(values)} seeds)"


def rounds_reached(row: Row) -> str | None:
    """The rounds in which a method's seeds reached the target."""
    return reached(row.rounds_to_target, [str(value) for value in row.rounds_to_target])


def _alone(row: Row, runs: Sequence[Run], comparison: Comparison) -> str:
    metric = comparison.metric
    ends = sorted({run.rounds[-1] for run in runs})
    averaged = min(LAST, *(len(run.rounds) for run in runs))
    rounds = f"{ends[0]} rounds" if len(ends) == 1 else f"{ends[0]} to {ends[-1]} rounds"
    when = "1 round" if ends == [1] else rounds
    over = f"mean of the last {averaged} evaluated rounds; " if averaged > 1 else ""
    about = f"({over}{_seeds(row, metric)})"
    if row.before is None:
        text = f"{row.name} reaches {metric.named(row.end.mean, 'test')} after {when} {about}"
    else:
        text = (
            f"{row.name} takes the test {metric.title} from {metric.text(row.before)} before the first round to "
            f"{metric.text(row.end.mean)} after {when} {about}"
        )
    if (first := rounds_reached(row)) and ends != [1]:
        text += f", {metric.level(comparison.target)} for the first time in round {first}"
    text += _others(runs, comparison)
    constant = f"constant/{metric.name}"
    constants = [run.summary[constant] for run in runs if run.summary and constant in run.summary]
    if constants:
        of = next(of_answers(run.summary) for run in runs if run.summary and constant in run.summary)
        text += f"; the {comparison.task.baseline(of)} has {metric.text(statistics.fmean(constants))}"
    return text + "."


def _others(runs: Sequence[Run], comparison: Comparison) -> str:
    """What became of the task's other curves, from before the first round to the last one."""
    said = ""
    for metric in comparison.task.metrics:
        firsts, lasts = [run.before(metric) for run in runs], [run.evaluated[-1].get(_key(metric)) for run in runs]
        if metric is comparison.metric or not metric.curve or None in firsts or None in lasts:
            continue
        first, last = (statistics.fmean(value for value in values if value is not None) for values in (firsts, lasts))
        said += f"; its {metric.title} goes from {metric.text(first)} to {metric.text(last)} in the last round"
    return said


def _key(metric: Metric) -> str:
    return f"{TEST}{metric.name}"


def _against(best: Row, other: Row, groups: Groups, comparison: Comparison) -> str:
    count, metric = len(comparison.rows), comparison.metric
    scope = "" if count == 2 else f"Of {count} methods, "
    ends = {row.name: {run.seed: at_end(run) for run in groups[row.name]} for row in (best, other)}
    against = (other if best.name == comparison.reference else best).end_difference
    if against is None or not (math.isfinite(best.end.mean) and math.isfinite(other.end.mean)):
        return _unpaired(scope, best, other, comparison, shared=bool(ends[best.name].keys() & ends[other.name].keys()))
    difference = against.reversed() if best.name == comparison.reference else against
    gap = difference if metric.better == "higher" else difference.reversed()
    if gap.mean < 0:  # the best over all its seeds is behind on those that both have
        best, other, gap = other, best, gap.reversed()
    seeds = ends[best.name].keys() & ends[other.name].keys()
    theirs, others = (statistics.fmean(ends[row.name][seed] for seed in seeds) for row in (best, other))
    named = other.name if other.name != comparison.reference or count == 2 else f"the reference {other.name}"
    facts = f"{metric.text(theirs)} against {metric.text(others)}"
    verdict = _verdict(best.name, named, facts, gap, comparison)
    return f"{scope}{verdict}{_speed(best, other, comparison)}{_began(best, other, comparison)}."


def _unpaired(scope: str, best: Row, other: Row, comparison: Comparison, *, shared: bool) -> str:
    """Where no seed was run with both, or one of them has no finite number at the end."""
    metric = comparison.metric
    ends = f"{scope}{best.name} ends at {metric.named(best.end.mean, 'test')} and {other.name} at "
    if shared:
        return f"{ends}{metric.text(other.end.mean)}{_speed(best, other, comparison)}."
    gap = metric.gap(abs(best.end.mean - other.end.mean))
    return (
        f"{ends}{metric.text(other.end.mean)}, but no seed was run with both, so chance may have made the gap of {gap}"
        f"{_speed(best, other, comparison)}."
    )


def _verdict(best: str, other: str, values: str, gap: Difference, comparison: Comparison) -> str:
    """What a difference says.

    Args:
        best: the method that is ahead.
        other: the one behind it.
        values: of both.
        gap: how far ahead, in the direction that is better.
        comparison: what it is a part of.
    """
    metric, tests = comparison.metric, comparison.tests
    side = "above" if metric.better == "higher" else "below"
    if metric.bare(gap.mean) == metric.bare(0):
        return f"{best} and {other} end level in test {metric.title} ({values}; {_counted(gap.pairs)})"
    far = f"{metric.gap(gap.mean)} of test {metric.title}"
    if gap.low is None or gap.high is None:
        return f"{best} ends {far} {side} {other} ({values}), with one seed, so chance may have made the difference"
    seeds = _counted(gap.pairs)
    if gap.low == gap.high:
        return f"{best} ends {far} {side} {other} ({values}; as far with each of {seeds})"
    ends = f"{metric.bare(gap.low, signed=True)} to {metric.bare(gap.high, signed=True)}"
    interval = f"95 % confidence interval {ends}, {seeds}"
    if gap.low <= 0:
        return (
            f"{best} ends {far} {side} {other} ({values}), which is within the spread of the seeds "
            f"({interval}: it includes 0)"
        )
    corrected = "" if tests == 1 else f"; p = {gap.p_holm:.2g} by Holm for {tests} comparisons"
    if not gap.proven:
        return (
            f"{best} ends {far} {side} {other} ({values}), which chance may have made among so many "
            f"({interval}, of this comparison by itself{corrected})"
        )
    return f"{best} is ahead of {other} by {far} at the end ({values}; {interval}{corrected})"


def _speed(best: Row, other: Row, comparison: Comparison) -> str:
    level = comparison.metric.level(comparison.target)
    first, second = rounds_reached(best), rounds_reached(other)
    if first and second:
        return f"; {level} is reached in round {first}, against {second}"
    if first:
        return f"; {level} is reached in round {first}, and never by {other.name}"
    return f"; {level} is reached by {other.name} alone, in round {second}" if second else ""


def _began(best: Row, other: Row, comparison: Comparison) -> str:
    """Where both began, if that is one place."""
    texts = {None if row.before is None else comparison.metric.text(row.before) for row in (best, other)}
    text = texts.pop() if len(texts) == 1 else None
    return f"; before the first round it was {text}" if text else ""


def _counted(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _seeds(row: Row, metric: Metric) -> str:
    if row.end.deviation is None:
        return _counted(len(row.seeds))
    return f"{len(row.seeds)} seeds, standard deviation {metric.gap(row.end.deviation)}"
