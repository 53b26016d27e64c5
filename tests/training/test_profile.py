from __future__ import annotations

import time

import pytest

from polyrank.training.profile import Clock


class Time:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(time, "perf_counter", made)
    return made


def test_phases_add_up(now: Time):
    clock = Clock(running=True)
    for phase, seconds in (("data", 1.0), ("arithmetic", 2.0), ("data", 0.5)):
        with clock(phase):
            now.passes(seconds)
        now.passes(10)  # outside of all phases
    assert clock.take() == {"data": 1.5, "arithmetic": 2.0}
    assert clock.take() == {}


def test_a_phase_that_fails_is_booked(now: Time):
    clock = Clock(running=True)

    def fail() -> None:
        now.passes(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), clock("data"):
        fail()
    assert clock.take() == {"data": 3.0}


def test_a_clock_that_does_not_run_books_nothing(now: Time):
    clock = Clock()
    with clock("data"), clock.shares() as book:
        now.passes(1)
        book({"arithmetic": 1.0})
    assert clock.take() == {}


def test_time_of_other_processes_is_shared_out(now: Time):
    """Two processes work 3 and 3 seconds side by side while 4 pass here: two thirds of those are arithmetic."""
    clock = Clock(running=True)
    with clock("aggregation"):
        now.passes(1)
    with clock.shares() as book:
        now.passes(2)
        book({"arithmetic": 2.0, "data": 1.0})
        now.passes(2)
        book({"arithmetic": 2.0, "optimiser": 1.0})
    shares = {"arithmetic": 4 * 4 / 6, "data": 4 / 6, "optimiser": 4 / 6}
    assert clock.take() == pytest.approx({"aggregation": 1.0} | shares)


def test_processes_that_booked_nothing_share_nothing(now: Time):
    clock = Clock(running=True)
    with clock.shares():
        now.passes(1)
    assert clock.take() == {}
