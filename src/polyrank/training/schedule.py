"""The learning rate over a client's steps of one round, and over the rounds."""

from __future__ import annotations

import math
from collections.abc import Callable

from polyrank.config import TrainingConfig


def multiplier(options: TrainingConfig, steps: int) -> Callable[[int], float]:
    """Factor on the learning rate at step 0 .. steps - 1: a linear rise over the warm-up, then the decay.

    The first warm-up step is above 0, and so is the last step of a decay: no step is wasted.
    """
    warmup = math.ceil(options.warmup * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        left = (steps - step) / max(steps - warmup, 1)
        if options.decay == "linear":
            return left
        if options.decay == "cosine":
            return 0.5 * (1 - math.cos(math.pi * left))
        return 1.0

    return factor


def over_rounds(options: TrainingConfig, number: int, rounds: int) -> float:
    """Share of the learning rate in a round: 1 in the first one, and still above 0 in the last one.

    ``(T - t + 1) / T`` for ``linear`` and ``(1 + cos(pi (t - 1) / T)) / 2`` for ``cosine``, in round t of T.

    Args:
        options: of the training.
        number: of the round; 0, the scoring round, has all of it.
        rounds: of the run.
    """
    gone = (max(number, 1) - 1) / rounds
    if options.rounds_decay == "linear":
        return 1 - gone
    return 0.5 * (1 + math.cos(math.pi * gone)) if options.rounds_decay == "cosine" else 1.0
