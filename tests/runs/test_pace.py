from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.adapter import Adapter
from polyrank.core.state import ServerState
from polyrank.runs.pace import Pace, recorded


def state(number: int, ranks: Sequence[int] = ()) -> ServerState:
    return ServerState(number, Adapter({}), {f"c{i}": rank for i, rank in enumerate(ranks)}, {})


def config(*overrides: str) -> Config:
    return configuration.override(Config(), overrides)


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
    found = pace.left(state(5, (2, 4, 4)), config("federation.rounds=10", "evaluation.every=5"))
    assert found == pytest.approx(5 * (others / 5 + 0.5) + 3 * 3.0)
    alone = config("federation.rounds=10", "evaluation.every=5", "evaluation.rank_groups=false")
    assert pace.left(state(10, (2, 4)), alone) == 0


def test_recent_rounds_count():
    pace = Pace()
    for seconds in (100.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        pace.played(seconds, 0.0, measured=False)
    assert pace.left(state(6), config("federation.rounds=9", "evaluation.every=100")) == 3.0
    assert Pace().left(state(1), config("federation.rounds=9")) == 0


def test_the_lines_of_a_run_say_how_long_it_goes_on():
    """Of three rounds to come each takes 2 s, and one test of 1 s is due, with one for each of two ranks."""
    lines = [
        {"round": 0, "test/loss": 5.0, "seconds": 100.0},
        {"round": 1, "seconds": 2.0, "time/evaluation": 0.0},
        {"round": 2, "seconds": 3.0, "time/evaluation": 1.0, "test/loss": 4.0},
        {"round": 3, "seconds": None},
    ]
    pace, chosen = recorded(lines), config("federation.rounds=6", "evaluation.every=4")
    assert pace.left_after(3, (4, 8, 8), chosen) == pytest.approx(3 * 2.0 + (2 + 2) * 1.0)
    assert recorded([]).left_after(0, (4,), chosen) == 0


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
