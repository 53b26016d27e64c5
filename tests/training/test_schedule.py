from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.config import TrainingConfig
from polyrank.training.schedule import multiplier, over_rounds


def factors(steps: int, **options: object) -> list[float]:
    factor = multiplier(TrainingConfig(**options), steps)
    return [factor(step) for step in range(steps)]


@pytest.mark.parametrize(
    ("warmup", "decay", "expected"),
    [
        (0.0, "none", [1, 1, 1, 1]),
        (0.0, "linear", [1, 3 / 4, 2 / 4, 1 / 4]),
        (0.0, "cosine", [1, 0.8535533906, 0.5, 0.1464466094]),
        (0.5, "none", [1 / 3, 2 / 3, 1, 1]),
        (0.5, "linear", [1 / 3, 2 / 3, 1, 1 / 2]),
        (0.5, "cosine", [1 / 3, 2 / 3, 1, 1 / 2]),
        (1.0, "linear", [1 / 5, 2 / 5, 3 / 5, 4 / 5]),
        (0.01, "none", [1 / 2, 1, 1, 1]),
    ],
)
def test_four_steps(warmup: float, decay: str, expected: list[float]):
    """Warm-up of w steps: (i + 1) / (w + 1). Linear: what is left. Cosine: (1 - cos(pi left)) / 2, where
    left = 3/4 gives (1 + sqrt(1/2)) / 2 = 0.85355 and left = 1/4 gives 0.14645. A hundredth of 4 steps rounds up to 1.
    """
    assert factors(4, warmup=warmup, decay=decay) == pytest.approx(expected)


@given(st.integers(1, 50), st.floats(0, 1), st.sampled_from(["none", "linear", "cosine"]))
def test_no_step_is_wasted(steps: int, warmup: float, decay: str):
    """Every factor is above 0 and at most 1; the factors rise, then fall."""
    found = factors(steps, warmup=warmup, decay=decay)
    assert all(0 < factor <= 1 for factor in found)
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("none", [1, 1, 1, 1, 1]),
        ("linear", [1, 1, 3 / 4, 2 / 4, 1 / 4]),
        ("cosine", [1, 1, 0.8535533906, 0.5, 0.1464466094]),
    ],
)
def test_four_rounds(decay: str, expected: list[float]):
    """The scoring round 0, then rounds 1 to 4. Linear: (4 - t + 1) / 4. Cosine: (1 + cos(pi (t - 1) / 4)) / 2, where a
    quarter gone gives (1 + sqrt(1/2)) / 2 = 0.85355 and three quarters 0.14645.
    """
    options = TrainingConfig(rounds_decay=decay)
    assert [over_rounds(options, number, 4) for number in range(5)] == pytest.approx(expected)


@given(st.integers(1, 300), st.sampled_from(["linear", "cosine"]))
def test_no_round_is_wasted(rounds: int, decay: str):
    """It falls from 1 in the first round, and is above 0 in the last."""
    options = TrainingConfig(rounds_decay=decay)
    found = [over_rounds(options, number, rounds) for number in range(1, rounds + 1)]
    assert found[0] == 1
    assert found == sorted(set(found), reverse=True)
    assert found[-1] > 0
