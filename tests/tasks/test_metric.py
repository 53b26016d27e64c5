from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.tasks.metric import SHARE, Metric, best, is_evaluated

WINS = Metric("won", "wins", "higher", SHARE, 1, most=1)
NATS = Metric("loss", "loss", "lower", "nats")
PERPLEXITY = Metric("perplexity", "perplexity", "lower", digits=1, least=1)
R2 = Metric("r2", "R2", "higher", least=-math.inf, most=1)
ALL = (WINS, NATS, PERPLEXITY, R2)


def test_the_best_is_the_highest_or_the_lowest():
    """The first of equals."""
    assert best(WINS, [0.2, 0.5, 0.5, 0.1]) == 1
    assert best(NATS, [0.2, 0.5, 0.1, 0.1]) == 2


def test_what_was_not_finite_is_the_worst_of_all():
    assert NATS.measured(None) == math.inf
    assert R2.measured(None) == R2.measured(math.nan) == -math.inf
    assert best(NATS, [NATS.measured(None), 9.0]) == best(R2, [R2.measured(None), -9.0]) == 1
    assert not NATS.reaches(math.inf, math.inf)
    assert NATS.text(math.inf) == "no finite number"


@pytest.mark.parametrize(
    ("metric", "best_value", "target"),
    [
        (WINS, 0.567, 0.51),  # nine tenths, down to a whole per cent
        (WINS, 0.005, 0.005),
        (NATS, 3.0, 3.3),  # a tenth worse
        (NATS, 0.01234, 0.0136),  # up to three digits
        (PERPLEXITY, 78.94, 86.9),
        (R2, 0.5, 0.45),
        (R2, -2.0, -2.2),
        (NATS, 0.0, 0.0),
    ],
)
def test_the_target_that_nobody_gave(metric: Metric, best_value: float, target: float):
    assert metric.target(best_value) == pytest.approx(target)


@given(st.sampled_from(ALL), st.floats(0.001, 1000))
def test_the_best_reaches_its_target(metric: Metric, value: float):
    assert metric.reaches(value, metric.target(value))


@pytest.mark.parametrize(
    ("metric", "inside", "outside", "words"),
    [
        (WINS, (0, 0.3, 1), (-0.1, 1.1), "a number from 0 to 1"),
        (NATS, (0, 40), (-0.1,), "a finite number of 0 or more"),
        (R2, (-3, 1), (1.1,), "a finite number of 1 or less"),
    ],
)
def test_bounds(metric: Metric, inside: tuple[float, ...], outside: tuple[float, ...], words: str):
    assert all(map(metric.allows, inside))
    assert not any(map(metric.allows, (*outside, math.nan, math.inf, -math.inf)))
    assert metric.bounds == words


def test_words():
    assert (WINS.level(0.125), NATS.level(3.3), PERPLEXITY.level(86.9)) == ("12.5 %", "3.3 nats", "86.9")
    assert (WINS.gap(-0.031), NATS.gap(0.5), PERPLEXITY.gap(4.25)) == ("-3.1 points", "0.500 nats", "4.2")
    assert PERPLEXITY.named(78.94, "test") == "a test perplexity of 78.9"


def test_a_line_is_evaluated_where_it_has_a_metric_of_the_test_set():
    """Also one that was not finite."""
    assert is_evaluated({"round": 1, "test/loss": None})
    assert not is_evaluated({"round": 1, "train/loss": 0.5})
