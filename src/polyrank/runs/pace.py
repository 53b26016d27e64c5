"""How long a start of a run takes, stage by stage, and how long it will go on."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polyrank.config import Config
from polyrank.tasks.metric import is_due, is_evaluated

if TYPE_CHECKING:  # whoever reads a run folder does without torch
    from polyrank.core.state import ServerState

RECENT = 5
"""Rounds by which those to come are judged."""
STAGES = ("loading", "scoring", "saving", "closing")
"""``loading``: data and model read, and what was ``auto`` measured; ``scoring``: the base and every client measured
before the first round; ``closing``: after the last one, rank groups, samples and the adapter."""


@dataclass
class Pace:
    """Seconds of what is done once, and of each round.

    Attributes:
        stages: name -> seconds, of each time in this start.
    """

    stages: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STAGES})
    _others: list[float] = field(default_factory=list)
    _measuring: list[float] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book what happens inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name].append(time.perf_counter() - start)

    def played(self, seconds: float, measuring: float, *, measured: bool) -> None:
        """A round is over.

        Args:
            seconds: of all of it, saving left out.
            measuring: of these, for its evaluation.
            measured: whether it was one of those in which the test set is read.
        """
        self._others.append(seconds - (measuring if measured else 0.0))
        if measured:
            self._measuring.append(measuring)

    def left(self, state: ServerState, config: Config) -> float:
        """Seconds from this state to the end, rank groups included."""
        return self.left_after(state.round, state.ranks.values(), config)

    def left_after(self, done: int, ranks: Collection[int], config: Config) -> float:
        """Seconds to the end of a run that has played its first ``done`` rounds, and whose clients have these ranks."""
        rounds, evaluation = config.federation.rounds, config.evaluation
        to_come = range(done + 1, rounds + 1)
        due = sum(is_due(number, evaluation.every, rounds) for number in to_come)
        due += len(set(ranks)) if evaluation.rank_groups else 0
        each = _recent(self._others) + _recent(self.stages["saving"])
        return len(to_come) * each + due * _recent(self._measuring)

    def whole(self, phases: Mapping[str, float]) -> dict[str, float]:
        """Phases of the rounds between what was before and after them."""
        own = {name: round(sum(seconds), 2) for name, seconds in self.stages.items()}
        before = {name: own.pop(name) for name in ("loading", "scoring")}
        return {**before, **phases, **own}


def recorded(lines: Sequence[Mapping[str, Any]]) -> Pace:  # Any: JSON values
    """The pace of a run by its lines of metrics.jsonl.

    They say how long a round took, saving left out, and what of it was evaluation where the run was profiled.
    """
    pace = Pace()
    for line in lines:
        if line["round"] and line.get("seconds") is not None:
            pace.played(line["seconds"], line.get("time/evaluation") or 0.0, measured=is_evaluated(line))
    return pace


def _recent(seconds: list[float]) -> float:
    recent = seconds[-RECENT:]
    return sum(recent) / len(recent) if recent else 0.0
