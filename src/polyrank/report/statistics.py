"""What runs came to, over their seeds: rounds and bytes to a target, the end, area, paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from polyrank.core.errors import ConfigError, did_you_mean
from polyrank.report.kinds import Change, kinds, mean
from polyrank.report.runs import Run
from polyrank.tasks import Metric, Task
from polyrank.tasks.metric import best

LAST = 5
"""Evaluated rounds whose mean is the value at the end: one round's is noisy when few clients take part."""
CONFIDENCE = 0.95
LEVEL = 0.05
"""Probability of calling any method different from the reference where all are the same, however many there are."""
SAME = 1e-12
"""Values that differ by less differ by the rounding of a mean."""


@dataclass(frozen=True)
class Spread:
    """Over the seeds: the mean, and the sample standard deviation where there are two or more."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Difference:
    """A method's mean difference to the reference over the seeds that both have.

    Args:
        mean: of the differences.
        low: of a paired t-test's confidence interval, of this difference by itself; None with fewer than two pairs.
        high: of the same.
        p: two-sided, of the same test; None with fewer than two pairs, and where all differences are equal.
        pairs: how many seeds.
        p_holm: `p` corrected for the number of methods that were tested (see `holm`), of this measure.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int
    p_holm: float | None = None

    @property
    def proven(self) -> bool:
        """Whether chance would hardly have made it, nor any other of its comparison: ``p_holm`` is below `LEVEL`."""
        return self.p_holm is not None and self.p_holm < LEVEL

    def reversed(self) -> Difference:
        """The reference's to the method."""
        ends = None if self.high is None else -self.high, None if self.low is None else -self.low
        return replace(self, mean=-self.mean, low=ends[0], high=ends[1])


@dataclass(frozen=True)
class Row:
    """One method.

    Args:
        name: of `grouped`.
        seeds: in the order of the lists below.
        rounds_to_target: the first evaluated round that reached the target, None where none did.
        bytes_to_target: sent by then, up and down, scoring included.
        end: the primary metric at the end (see `LAST`).
        area: its mean over the rounds (see `area`).
        bytes_per_round: up and down, mean over rounds and seeds.
        end_difference: to the reference; None for itself and where no seed is shared.
        area_difference: the same of the area.
        before: the primary metric before the first round; None where it was not measured in every run.
        kinds: kind of text -> what became of the primary metric there, where it was measured by kind.
    """

    name: str
    seeds: tuple[int, ...]
    rounds_to_target: tuple[int | None, ...]
    bytes_to_target: tuple[int | None, ...]
    end: Spread
    area: Spread
    bytes_per_round: float
    end_difference: Difference | None
    area_difference: Difference | None
    before: float | None = None
    kinds: Mapping[str, Change] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Methods side by side.

    Args:
        task: what was learned; values are of its primary metric, shares in 0..1.
        target: a value of it.
        reference: name of the row that differences refer to.
        rows: in the order of the groups.
    """

    task: Task
    target: float
    reference: str
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def metric(self) -> Metric:
        """By which methods are compared."""
        return self.task.primary

    @property
    def tests(self) -> int:
        """How many values at the end were tested against the reference: what p-values are corrected for."""
        return sum(row.end_difference is not None and row.end_difference.p is not None for row in self.rows)


def compare(
    groups: Mapping[str, Sequence[Run]], *, reference: str | None = None, target: float | None = None
) -> Comparison:
    """Every group against the reference; p-values corrected for the number of groups, in each measure.

    Args:
        groups: of `polyrank.report.runs.grouped`.
        reference: a group's name; by default ``replication``, or the first group.
        target: a value of the task's primary metric; by default one near the best at the end (see `Metric.target`).

    Raises:
        ConfigError: there is no such group, or the metric has no such value.
    """
    task = next(iter(groups.values()))[0].task
    reference = check(groups, task.primary, reference, target)
    if target is None:
        finals = [statistics.fmean(at_end(run) for run in runs) for runs in groups.values()]
        target = task.primary.target(finals[best(task.primary, finals)])
    rows = [_row(name, runs, groups[reference], target) for name, runs in groups.items()]
    ends, areas = _corrected([row.end_difference for row in rows]), _corrected([row.area_difference for row in rows])
    corrected = [
        replace(row, end_difference=end, area_difference=mean) for row, end, mean in zip(rows, ends, areas, strict=True)
    ]
    return Comparison(task, target, reference, tuple(corrected))


def check(names: Collection[str], metric: Metric, reference: str | None, target: float | None) -> str:
    """The name of the reference, where there is one of that name and the target is a value of the metric.

    Raises:
        ConfigError: as `compare`.
    """
    if target is not None and (not metric.allows(target) or target in (metric.least, metric.most)):
        article = "an" if metric.title[0].lower() in "aeiou" else "a"
        raise ConfigError(f"target: found {target}; expected {article} {metric.title} {metric.between}")
    if reference is None:
        return "replication" if "replication" in names else next(iter(names))
    if reference not in names:
        raise ConfigError(f"no run is called {reference!r}: {did_you_mean(reference, names)}")
    return reference


def rounds_to(run: Run, target: float) -> int | None:
    """The first evaluated round whose value is as good as the target."""
    return _first(run, run.rounds, target)


def bytes_to(run: Run, target: float) -> int | None:
    """What was sent until the end of that round."""
    return _first(run, run.traffic, target)


def _first(run: Run, places: Sequence[int], target: float) -> int | None:
    reaches = run.task.primary.reaches
    return next((n for n, value in zip(places, run.values, strict=True) if reaches(value, target)), None)


def at_end(run: Run) -> float:
    """Mean of the last evaluated rounds, at most `LAST`."""
    return statistics.fmean(run.values[-LAST:])


def area(run: Run) -> float:
    """Area under the values against rounds, by trapezoids from the first evaluated round to the last, per round."""
    rounds, values = run.rounds, run.values
    if len(rounds) == 1:
        return values[0]
    steps = zip(rounds, rounds[1:], values, values[1:], strict=False)
    return sum((after - before) * (left + right) / 2 for before, after, left, right in steps) / (rounds[-1] - rounds[0])


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation; none of values that are not all finite."""
    spread_out = len(values) > 1 and all(map(math.isfinite, values))
    return Spread(statistics.fmean(values), statistics.stdev(values) if spread_out else None)


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """``values - reference`` over the seeds that both have and that ended finite; None if there is none."""
    both = sorted(values.keys() & reference.keys())
    seeds = [seed for seed in both if math.isfinite(values[seed]) and math.isfinite(reference[seed])]
    if not seeds:
        return None
    gaps = [values[seed] - reference[seed] for seed in seeds]
    mean = statistics.fmean(gaps)
    if len(gaps) == 1:
        return Difference(mean, None, None, None, 1)
    if max(gaps) - min(gaps) < SAME:  # no variance: the test is not defined, and the interval is the value itself
        return Difference(mean, mean, mean, None, len(gaps))
    from scipy.special import stdtr, stdtrit

    freedom, error = len(gaps) - 1, statistics.stdev(gaps) / math.sqrt(len(gaps))
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error))
    return Difference(mean, mean - half, mean + half, p, len(gaps), p)


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, by Holm's step-down procedure.

    Whoever calls different what is below 0.05 errs with a probability of at most 5 % in any of them together, whatever
    ties the tests to one another (methods share a reference, seeds and data). Source: Holm 1979.

    >>> holm([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.04]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, highest = [0.0] * len(values), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, values[i] * (len(values) - place)))
        corrected[i] = highest
    return corrected


def _corrected(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """These comparisons with ``p_holm`` for all that were tested."""
    tested = [difference.p for difference in differences if difference and difference.p is not None]
    values = iter(holm(tested))
    return [
        replace(difference, p_holm=next(values)) if difference and difference.p is not None else difference
        for difference in differences
    ]


def _row(name: str, runs: Sequence[Run], reference: Sequence[Run], target: float) -> Row:
    itself = runs is reference
    ends, areas = ({run.seed: measure(run) for run in runs} for measure in (at_end, area))
    their_ends, their_areas = ({run.seed: measure(run) for run in reference} for measure in (at_end, area))
    metric = runs[0].task.primary
    per_round = [line["bytes/up"] + line["bytes/down"] for run in runs for line in run.lines]
    return Row(
        name,
        tuple(run.seed for run in runs),
        tuple(rounds_to(run, target) for run in runs),
        tuple(bytes_to(run, target) for run in runs),
        spread(list(ends.values())),
        spread(list(areas.values())),
        statistics.fmean(per_round),
        None if itself else paired(ends, their_ends),
        None if itself else paired(areas, their_areas),
        mean([run.before(metric) for run in runs]),
        kinds(runs, metric),
    )
