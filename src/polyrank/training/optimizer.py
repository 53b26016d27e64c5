"""torch's own optimisers, as the configuration asks for them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from polyrank.config import TrainingConfig


def make_optimizer(clients: Sequence[Sequence[nn.Parameter]], options: TrainingConfig) -> Optimizer:
    """A fresh optimiser with a parameter group per client, so that each has its own steps and learning rate.

    A parameter without a gradient is left as it is, weight decay included.
    """
    groups = [{"params": list(parameters)} for parameters in clients]
    if options.optimizer == "sgd":
        return SGD(groups, options.lr, momentum=options.momentum, weight_decay=options.weight_decay, fused=True)
    return AdamW(groups, options.lr, weight_decay=options.weight_decay, fused=True)
