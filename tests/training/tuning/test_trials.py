"""Timings in turn, by a clock that says what each training takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import pytest

from polyrank.training.tuning import trials
from polyrank.training.tuning.forms import Form
from polyrank.training.tuning.trials import Trials, Way

FORM = Form("float32", "sdpa")
A, B, C = (Way(FORM, width, 2) for width in (1, 2, 5))
Make = Callable[..., tuple[Trials, list[Way]]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """Trials in which a way takes one after another of its seconds, then the last again; and what was trained."""

    def made(seconds: Mapping[Way, Sequence[float]], budget: float = 1e9) -> tuple[Trials, list[Way]]:
        clock, trained, times = [0.0], list[Way](), defaultdict[Way, int](int)

        def run(way: Way) -> int:
            own = seconds[way]
            clock[0] += own[min(times[way], len(own) - 1)]
            times[way] += 1
            trained.append(way)
            return 2 * way.width

        monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
        return Trials(run, budget), trained

    return made


def test_ways_take_turns_and_the_shortest_counts(make: Make):
    """Seconds per client and step: two steps each, of as many clients as are in a pass."""
    found, trained = make({A: [0.9, 0.3, 0.6], B: [0.8, 0.8, 0.4]})
    assert found.compare([A, B]) == [pytest.approx(0.15), pytest.approx(0.1)]
    assert trained == [A, B] * trials.REPEATS
    assert found.spent == pytest.approx(3.8)


def test_short_ones_are_timed_more_often(make: Make):
    """Until it is enough, or often enough; what was known is kept."""
    found, trained = make({A: [0.01], B: [0.05]})
    found.compare([A])
    assert len(trained) == trials.MOST
    found.compare([B])
    assert trained.count(B) == 4
    found.best[A] = 1e-9
    assert found.compare([A]) == [1e-9]


def test_what_was_timed_often_is_timed_once_more_beside_another(make: Make):
    found, trained = make({A: [0.9], B: [0.9]})
    found.compare([A])
    trained.clear()
    found.compare([A, B])
    assert trained == [A, *[B] * trials.REPEATS]


def test_hopeless_ones_are_not_repeated(make: Make):
    """The first time, which warms up, more is forgiven: of a step of 1 second 5 are too many, and 2 the second time."""
    found, trained = make({A: [2.0], B: [8.0], C: [50.0]})
    found.compare([A, B, C])  # per client and step 1, 2 and 5
    assert [trained.count(way) for way in (A, B, C)] == [trials.REPEATS, 2, 1]


def test_after_some_budgets_it_is_over(make: Make):
    found, _ = make({A: [2.0], B: [8.0]}, budget=8.0)
    found.compare([A])
    assert not found.over
    found.compare([B])
    assert not found.over  # 22 s are more than the least, but no three budgets
    found.compare([A, B])
    assert found.over


def test_after_the_budget_all_are_warmed_up_and_timed_once(make: Make):
    found, trained = make({A: [2.0], B: [4.0], C: [10.0]}, budget=3.0)
    assert found.compare([A, B]) == [1.0, 1.0]
    assert trained == [A, B, A, B]
    found.compare([B, C])
    assert trained[4:] == [B, C, B, C]
