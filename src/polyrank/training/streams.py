"""Seeded sources of dropout's masks, one stream per client and part of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

LEVELS = 2**16
"""A mask is drawn from 16 random bits: p is met to 1 / 131,072, and the scale makes up for the rest."""


class Bits(Protocol):
    """A seeded source of masks on one device."""

    def draw(self, keep: Tensor, threshold: int) -> None:
        """Fill booleans, True with probability ``threshold / LEVELS``; the same for the same shape, in any memory."""

    def copy(self) -> Bits:
        """A source that gives what this one will give from here on."""


class HostBits:
    """A stream on the CPU: SFC64, the fastest of numpy's generators."""

    def __init__(self, seed: int, *draw: int) -> None:
        self._bits = np.random.SFC64(np.random.SeedSequence([seed, *draw]))

    def draw(self, keep: Tensor, threshold: int) -> None:
        raw = self._bits.random_raw(-(-keep.numel() // 4)).view(np.uint16)[: keep.numel()]
        np.less(raw.reshape(keep.shape), threshold, out=keep.numpy())

    def copy(self) -> HostBits:
        other = HostBits(0)
        other._bits.state = self._bits.state
        return other


class DeviceBits:
    """A stream on an accelerator: torch's counter-based generator there."""

    def __init__(self, seed: int, *draw: int, device: torch.device) -> None:
        mixed = int(np.random.SeedSequence([seed, *draw]).generate_state(1, np.uint64)[0]) >> 1
        self._generator = torch.Generator(device).manual_seed(mixed)

    def draw(self, keep: Tensor, threshold: int) -> None:
        if keep.is_contiguous():
            keep.bernoulli_(threshold / LEVELS, generator=self._generator)
        else:  # which number goes where depends on strides
            keep.copy_(
                torch.empty_like(keep, memory_format=torch.contiguous_format).bernoulli_(
                    threshold / LEVELS, generator=self._generator
                )
            )

    def copy(self) -> DeviceBits:
        other = DeviceBits(0, device=self._generator.device)
        other._generator.set_state(self._generator.get_state())
        return other


@dataclass(frozen=True, eq=False)
class Stream:
    """One client's randomness in one forward pass.

    Args:
        bits: where its masks come from.
        rows: examples of the client in this pass.
        tokens: to how many tokens they would be padded alone.
    """

    bits: Bits
    rows: int
    tokens: int


def stream(seed: int, step: int, part: int, rows: int, tokens: int, *, device: torch.device) -> Stream:
    """The stream of (client's seed, step, part of the step)."""
    on_cpu = device.type == "cpu"
    return Stream(HostBits(seed, step, part) if on_cpu else DeviceBits(seed, step, part, device=device), rows, tokens)
