from __future__ import annotations

import pytest
import torch
from torch import nn

from polyrank.config import TrainingConfig
from polyrank.training.optimizer import make_optimizer


def steps(options: TrainingConfig, count: int) -> list[float]:
    """The number 1 after each of some steps with the gradient 0.5; another client's, without a gradient, stays."""
    mine, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = make_optimizer([[mine], [other]], options)
    found = []
    for _ in range(count):
        mine.grad = torch.full((1,), 0.5)
        optimizer.step()
        found.append(mine.item())
    assert other.item() == 1.0
    return found


def test_adamw_decays_by_what_is_asked_for():
    """The first step is ``lr`` against the sign, beside ``lr * weight_decay`` of the value: 1 - 0.1 - 0.02."""
    found = steps(TrainingConfig(optimizer="adamw", lr=0.1, weight_decay=0.2), 1)
    assert found == pytest.approx([0.88], rel=1e-6)


def test_sgd_has_the_momentum_and_the_decay_that_are_asked_for():
    """Gradients with decay are 0.5 + 0.2 = 0.7 and 0.5 + 0.2 * 0.93 = 0.686; the second step is 0.9 * 0.7 + 0.686."""
    found = steps(TrainingConfig(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.2), 2)
    assert found == pytest.approx([0.93, 0.93 - 0.1316], rel=1e-6)
