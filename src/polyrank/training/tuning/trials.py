"""Timings of ways to train: in turn, so that a busy moment of the machine meets all of them; the shortest counts."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polyrank.training.tuning.forms import Form

log = logging.getLogger(__name__)

REPEATS = 3
"""Of each way, the first of which warms up; one that was timed so often is timed once more beside another."""
ENOUGH = 0.2
"""Seconds of one way after which it is timed often enough; short steps are timed more often, since they are noisy."""
MOST = 10
PATIENCE = (20.0, 3.0)
"""After so many seconds and so many times the budget nothing new is tried, but what is worth the most."""
HOPELESS = (2.5, 1.5)
"""A way that takes so many times the best one is not timed again: when it was timed once, warming up, and later."""


@dataclass(frozen=True)
class Way:
    """How clients are trained.

    Args:
        form: of the base.
        width: clients to a pass.
        threads: of each pass; with fewer than all, other lanes or processes have the rest.
        lanes: passes at a time.
    """

    form: Form
    width: int
    threads: int
    lanes: int = 1

    def __str__(self) -> str:
        return f"{self.form}, {self.width} to a pass, {self.lanes} lane(s) of {self.threads} thread(s)"


class Trials:
    """What was timed so far, in seconds per client and step.

    Args:
        run: trains once in this way; how many steps of how many clients that were, together.
        budget: seconds after which each is only warmed up and timed once.
    """

    def __init__(self, run: Callable[[Way], float], budget: float) -> None:
        self._run, self._budget = run, budget
        self.best: dict[Way, float] = {}
        self._often: set[Way] = set()
        self.spent = 0.0

    @property
    def over(self) -> bool:
        """Whether enough time has gone, whatever could still be found."""
        least, times = PATIENCE
        return self.spent > max(least, times * self._budget)

    def compare(self, ways: Sequence[Way]) -> list[float]:
        """Time these ways in turn; what each takes, in their order."""
        times = dict.fromkeys(ways, 0)
        taken = dict.fromkeys(ways, 0.0)
        while open_ways := [way for way in times if self._open(way, times[way], taken[way], ways)]:
            for way in open_ways:
                taken[way] += self._time(way)
                times[way] += 1
        self._often |= {way for way in ways if times[way] >= REPEATS}
        return [self.best[way] for way in ways]

    def _open(self, way: Way, times: int, seconds: float, ways: Sequence[Way]) -> bool:
        hopeless = HOPELESS[min(times, len(HOPELESS)) - 1] * min(self.best.get(own, math.inf) for own in ways)
        if times > 0 and (way in self._often or self.best[way] > hopeless):
            return False
        if times > 1 and self.spent > self._budget:
            return False
        return times < REPEATS or (seconds < ENOUGH and times < MOST)

    def _time(self, way: Way) -> float:
        start = time.perf_counter()
        steps = self._run(way)
        seconds = time.perf_counter() - start  # results are copied to the CPU, so nothing is pending
        self.spent += seconds
        first = way not in self.best
        self.best[way] = min(self.best.get(way, math.inf), seconds / steps)
        if not first:
            log.debug("%s: %.1f ms per client and step", way, 1000 * seconds / steps)
        return seconds
