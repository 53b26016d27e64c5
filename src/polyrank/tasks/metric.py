"""What a task measures: a number's name, its scale, which way is better, and how a person reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

TEST = "test/"
"""Before the names of metrics of the server's test set, in metrics.jsonl."""
OWN = "own/"
"""Before the names of metrics that clients measured on test sets of their own."""
BY_KIND = "_by_kind"
"""After the name of a metric that is given for each kind of text."""
SHARE = "%"
"""The unit of shares of 1: written in per cent, their differences in points."""
HUGE = 1e6
"""From here on a number is written with an exponent: a perplexity of ten digits says no more for being spelled out."""
TARGET_SHARE = 0.9
"""A target that nobody gave: nine tenths of the best share that was reached; of other numbers, worse by a tenth."""


@dataclass(frozen=True)
class Metric:
    """One number of a task.

    Args:
        name: in ``test/NAME`` of metrics.jsonl.
        title: in sentences and headings: "accuracy".
        better: ``"higher"`` or ``"lower"``.
        unit: `SHARE`, or a word such as ``"nats"``; empty where there is none.
        digits: decimals that are shown; of a share, those of its per cent.
        least: that a value may be.
        most: that a value may be.
        about: what it says, as a sentence under its curve.
        curve: whether it is shown round by round: its curve in reports, a column while a run goes on.

    >>> share, nats = Metric("won", "wins", "higher", SHARE, 1), Metric("loss", "loss", "lower", "nats")
    >>> share.number(0.5678), share.gap(0.031), share.level(0.5), share.named(0.5678, "test")
    ('56.8 %', '3.1 points', '50 %', '56.8 % test wins')
    >>> nats.number(1.23456), nats.gap(0.12), nats.level(1.5), nats.named(1.23456, "test")
    ('1.235', '0.120 nats', '1.5 nats', 'a test loss of 1.235 nats')
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    unit: str = ""
    digits: int = 3
    least: float = 0.0
    most: float = math.inf
    about: str = ""
    curve: bool = True

    @property
    def share(self) -> bool:
        """Whether values are shares of 1."""
        return self.unit == SHARE

    def merit(self, value: float) -> float:
        """A number that is higher where the value is better."""
        return value if self.better == "higher" else -value

    def measured(self, value: float | None) -> float:
        """A value of metrics.jsonl, where null stands for one that was not finite: infinitely bad."""
        return -self.merit(math.inf) if value is None or not math.isfinite(value) else value

    def reaches(self, value: float, target: float) -> bool:
        """Whether a value is as good as a target."""
        return math.isfinite(value) and self.merit(value) >= self.merit(target)

    def target(self, best: float) -> float:
        """The target where nobody gave one: near the best value that was reached, and rounded to a plain number."""
        if self.share and self.better == "higher":
            return int(100 * TARGET_SHARE * best) / 100 or best
        if not math.isfinite(best) or best == 0:
            return best
        easier = best - self.merit(1 - TARGET_SHARE) * abs(best)
        if not math.isfinite(easier):
            return best
        step = 10.0 ** (math.floor(math.log10(abs(easier))) - 2)  # three digits
        return float(f"{step * (math.floor if self.better == 'higher' else math.ceil)(easier / step):.6g}")

    def allows(self, value: float) -> bool:
        """Whether somebody may have measured it: finite and within its bounds."""
        return math.isfinite(value) and self.least <= value <= self.most

    @property
    def bounds(self) -> str:
        """What `allows` lets through, in words."""
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"a number from {self.least:g} to {self.most:g}"
        if math.isfinite(self.least):
            return f"a finite number of {self.least:g} or more"
        return f"a finite number of {self.most:g} or less" if math.isfinite(self.most) else "a finite number"

    @property
    def between(self) -> str:
        """Where a target may lie, in words: a bound itself is none."""
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"between {self.least:g} and {self.most:g}, such as {(self.least + self.most) / 2:g}"
        above = f"above {self.least:g}" if math.isfinite(self.least) else ""
        return above or (f"below {self.most:g}" if math.isfinite(self.most) else "that is finite")

    def bare(self, value: float, *, signed: bool = False) -> str:
        """Digits alone: of a share those of its per cent; of a number that ran away its first three."""
        sign, shown = "+" if signed else "", 100 * value if self.share else value
        return f"{shown:{sign}.{self.digits}f}" if abs(shown) < HUGE else f"{shown:{sign}.3g}"

    def number(self, value: float | None) -> str:
        """For a cell under a heading; a dash where nothing was measured or it was not finite."""
        if value is None or not math.isfinite(value):
            return "-"
        return f"{self.bare(value)} %" if self.share else self.bare(value)

    def text(self, value: float) -> str:
        """The value with its unit."""
        if not math.isfinite(value):
            return "no finite number"
        return self.number(value) if self.share or not self.unit else f"{self.number(value)} {self.unit}"

    def gap(self, difference: float) -> str:
        """A difference with its unit."""
        unit = "points" if self.share else self.unit
        return f"{self.bare(difference)} {unit}".strip()

    def level(self, target: float) -> str:
        """A target, with no more digits than it has."""
        return f"{100 * target:g} %" if self.share else f"{target:g} {self.unit}".strip()

    def named(self, value: float, of: str) -> str:
        """The metric in a sentence, ``of`` the test set."""
        return f"{self.text(value)} {of} {self.title}" if self.share else f"a {of} {self.title} of {self.text(value)}"


def is_evaluated(line: Mapping[str, object]) -> bool:
    """Whether a line of metrics.jsonl has metrics of the test set."""
    return any(key.startswith(TEST) for key in line)


def is_due(number: int, every: int, rounds: int) -> bool:
    """Whether a run of so many rounds evaluates after this one."""
    return number % every == 0 or number == rounds


def best(metric: Metric, values: Sequence[float]) -> int:
    """Where the best of some values stands: the first one of equals."""
    return max(range(len(values)), key=lambda i: metric.merit(values[i]))
