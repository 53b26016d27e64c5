"""The gradient of FedProx's term, for every engine in the same way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Pull:
    """What draws a client's parameters back to where they are now; see `polyrank.training.work.Proximal`.

    Args:
        parameters: those that are drawn back, as the client starts from them.
        weight: of the term, for all values or for each.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weight: float | Tensor) -> None:
        self._began = [(parameter, parameter.detach().clone()) for parameter in parameters]
        self._weight = weight

    @torch.no_grad()
    def add(self) -> None:
        """Add ``weight (w - w0)`` to the gradients; a parameter without one has not moved, and gets none."""
        for parameter, start in self._began:
            if parameter.grad is not None:
                parameter.grad.add_(self._weight * (parameter - start))
