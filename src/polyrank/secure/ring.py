"""Sums as whole numbers modulo a power of two, in which masks can be added and taken away without a trace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from polyrank.aggregation.sums import Sums
from polyrank.core.errors import SecureError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SPARE = 0.999
"""Share of the numbers that a sum may take up: the rest is for the rounding of this very bound."""


@dataclass(frozen=True)
class Ring:
    """How a contribution becomes whole numbers, so that no sum over the clients can overflow.

    A value x is ``round(x / step)``. Steps are powers of two, so weights that are whole numbers and numbers of clients
    are exact as long as ``clients * weight < 2 ** (bits - 1)``.

    Args:
        bits: of a number, 32 or 64.
        clients: the most that are summed.
        clip: the largest magnitude of a value of a client that weighs ``weight``.
        weight: the largest weight.
    """

    bits: Annotated[int, Field(ge=32, le=64, multiple_of=32)]
    clients: Annotated[int, Field(ge=1, le=2**20)]
    clip: Positive
    weight: Positive

    @property
    def dtype(self) -> np.dtype:
        """The numbers' kind, unsigned."""
        return np.dtype(f"uint{self.bits}")

    def most(self, name: str) -> float:
        """The largest magnitude that a client may contribute to a tensor of `Sums`."""
        if name.endswith("owners"):
            return 1.0
        return self.weight if name.endswith("weight") else self.clip * self.weight

    def step(self, name: str) -> float:
        """What two neighbouring numbers of a tensor differ by."""
        if name.endswith("owners"):
            return 1.0
        steps = SPARE * 2.0 ** (self.bits - 1) / self.clients - 0.5
        return 2.0 ** math.ceil(math.log2(self.most(name) / steps))

    def error(self, name: str) -> float:
        """How far a sum of a tensor can be off for having been made of whole numbers: half a step for each client."""
        return 0.0 if name.endswith("owners") else self.clients * self.step(name) / 2

    def encode(self, sums: Sums) -> np.ndarray:
        """A client's contribution, tensors one after another in the order of their names.

        Raises:
            SecureError: a value is out of range or not finite; its tensor is named.
        """
        parts = []
        for name, tensor in sorted(sums.tensors.items()):
            values, most = tensor.detach().cpu().double().flatten().numpy(), self.most(name)
            low = 0.0 if name.endswith(("owners", "weight")) else -most
            if not bool(((values >= low) & (values <= most)).all()):
                raise SecureError(  # the server is told, so it says no value
                    f"{name} holds a value beyond {most:.6g} (secure.clip is {self.clip:g}, the largest weight "
                    f"{self.weight:g}): nothing was sent; set secure.clip or secure.max_weight higher"
                )
            parts.append(np.rint(values / self.step(name)).astype(np.int64).astype(self.dtype))
        return np.concatenate(parts)

    def decode(self, total: np.ndarray, like: Sums) -> Sums:
        """The sums of a total.

        Args:
            total: of what clients encoded, modulo the ring.
            like: sums of the same names, shapes and dtypes.
        """
        signed, start, found = total.view(f"int{self.bits}"), 0, {}
        for name, tensor in sorted(like.tensors.items()):
            part = signed[start : start + tensor.numel()].astype(np.float64) * self.step(name)
            found[name] = torch.from_numpy(part).to(tensor.dtype).reshape(tensor.shape)
            start += tensor.numel()
        return Sums(found)


def length(sums: Sums) -> int:
    """How many numbers a contribution of these shapes has."""
    return sum(tensor.numel() for tensor in sums.tensors.values())
