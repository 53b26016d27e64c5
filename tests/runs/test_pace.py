from __future__ import annotations

import time

import pytest

from polyrank.runs.pace import Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_what_is_left_counts_evaluations_saving_and_the_rank_groups(clock: list[float]):
    """Ten rounds of 2 s, every fifth one evaluated in 3 s, each saved in 0.5 s; two groups at the end."""
    pace = Pace()
    for number in range(1, 6):
        due = number == 5
        pace.played(2.0 + (3.0 if due else 0.125), 3.0 if due else 0.125, measured=due)
        with pace.stage("saving"):
            clock[0] += 0.5
    others = 4 * 2.125 + 2.0
    assert pace.left(5, rounds=10, every=5, groups=2) == pytest.approx(5 * (others / 5 + 0.5) + 3 * 3.0)
    assert pace.left(10, rounds=10, every=5, groups=0) == 0


def test_recent_rounds_count():
    pace = Pace()
    for seconds in (100.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        pace.played(seconds, 0.0, measured=False)
    assert pace.left(6, rounds=9, every=100, groups=0) == 3.0
    assert Pace().left(1, rounds=9, every=1, groups=1) == 0


def test_stages_stand_around_the_phases(clock: list[float]):
    pace = Pace()
    for name, seconds in (("loading", 1.0), ("scoring", 2.0), ("saving", 0.25), ("saving", 0.25), ("closing", 4.0)):
        with pace.stage(name):
            clock[0] += seconds
    whole = pace.whole({"arithmetic": 9.0})
    assert list(whole.items()) == [
        *(("loading", 1.0), ("scoring", 2.0), ("arithmetic", 9.0), ("saving", 0.5), ("closing", 4.0)),
    ]
    with pytest.raises(ValueError, match="x"), pace.stage("loading"):
        raise ValueError(f"x {clock}")
