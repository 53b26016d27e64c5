"""What runs came to, over their seeds: rounds and bytes to a target, accuracy at the end, area, paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from polyrank.core.errors import ConfigError, did_you_mean
from polyrank.report.runs import Run

LAST = 5
"""Evaluated rounds whose mean accuracy is the accuracy at the end: one round's is noisy when few clients take part."""
CONFIDENCE = 0.95
LEVEL = 0.05
"""Probability of calling any method different from the reference where all are the same, however many there are."""
SAME = 1e-12
"""Accuracies that differ by less differ by the rounding of a mean."""
TARGET_SHARE = 0.9
"""Of the best method's accuracy at the end: the target where none is given, rounded down to a whole per cent."""


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
        end: accuracy at the end (see `LAST`).
        area: mean accuracy over the rounds (see `area`).
        bytes_per_round: up and down, mean over rounds and seeds.
        end_difference: to the reference; None for itself and where no seed is shared.
        area_difference: the same of the area.
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


@dataclass(frozen=True)
class Comparison:
    """Methods side by side.

    Args:
        target: accuracy in 0..1.
        reference: name of the row that differences refer to.
        rows: in the order of the groups.
    """

    target: float
    reference: str
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def tests(self) -> int:
        """How many accuracies at the end were tested against the reference: what p-values are corrected for."""
        return sum(row.end_difference is not None and row.end_difference.p is not None for row in self.rows)


def compare(
    groups: Mapping[str, Sequence[Run]], *, reference: str | None = None, target: float | None = None
) -> Comparison:
    """Every group against the reference; p-values corrected for the number of groups, in each measure.

    Args:
        groups: of `polyrank.report.runs.grouped`.
        reference: a group's name; by default ``replication``, or the first group.
        target: accuracy in 0..1; by default a share of the best accuracy at the end (see `TARGET_SHARE`).

    Raises:
        ConfigError: there is no such group, or the target is no accuracy.
    """
    reference = check(groups, reference, target)
    if target is None:
        best = max(statistics.fmean(at_end(run) for run in runs) for runs in groups.values())
        target = int(100 * TARGET_SHARE * best) / 100 or best
    rows = [_row(name, runs, groups[reference], target) for name, runs in groups.items()]
    ends, areas = _corrected([row.end_difference for row in rows]), _corrected([row.area_difference for row in rows])
    corrected = [
        replace(row, end_difference=end, area_difference=mean) for row, end, mean in zip(rows, ends, areas, strict=True)
    ]
    return Comparison(target, reference, tuple(corrected))


def check(names: Collection[str], reference: str | None, target: float | None) -> str:
    """The name of the reference, where there is one of that name and the target is an accuracy.

    Raises:
        ConfigError: as `compare`.
    """
    if target is not None and not 0 < target < 1:
        raise ConfigError(f"target: found {target}; expected an accuracy between 0 and 1, such as 0.5")
    if reference is None:
        return "replication" if "replication" in names else next(iter(names))
    if reference not in names:
        raise ConfigError(f"no run is called {reference!r}: {did_you_mean(reference, names)}")
    return reference


def rounds_to(run: Run, target: float) -> int | None:
    """The first evaluated round whose accuracy is at least the target."""
    return next((n for n, value in zip(run.rounds, run.accuracies, strict=True) if value >= target), None)


def bytes_to(run: Run, target: float) -> int | None:
    """What was sent until the end of that round."""
    return next((n for n, value in zip(run.traffic, run.accuracies, strict=True) if value >= target), None)


def at_end(run: Run) -> float:
    """Mean accuracy of the last evaluated rounds, at most `LAST`."""
    return statistics.fmean(run.accuracies[-LAST:])


def area(run: Run) -> float:
    """Area under accuracy against rounds, by trapezoids from the first evaluated round to the last, per round."""
    rounds, values = run.rounds, run.accuracies
    if len(rounds) == 1:
        return values[0]
    steps = zip(rounds, rounds[1:], values, values[1:], strict=False)
    return sum((after - before) * (left + right) / 2 for before, after, left, right in steps) / (rounds[-1] - rounds[0])


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """``values - reference`` over the seeds that both have; None if there is none."""
    seeds = sorted(values.keys() & reference.keys())
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
    """The same with ``p_holm`` for all that were tested."""
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
    )
