"""Gaussian noise from a secret, so that a round that is computed once more has the same."""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
import torch
from torch import Tensor

BYTES = 32


def new_secret() -> str:
    """A secret of the operating system's randomness, in hexadecimal."""
    return secrets.token_hex(BYTES)


def generator(secret: str, *path: str | int) -> np.random.Generator:
    """A generator for one purpose, of numpy's Philox, which a key of 128 bits of a SHA-256 starts.

    Philox is built like a cipher but is no cryptographic generator, and normal values of finite precision are no true
    Gaussian (Mironov 2012); both are outside of what the accounting covers.

    Args:
        secret: whoever has it can take the noise away again.
        path: the purpose; equal paths give equal numbers.
    """
    if not secret:
        raise ValueError("noise without a secret would be known to everybody")
    text = "\x1f".join([secret, *(f"{type(part).__name__}:{part}" for part in path)])
    key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def add_gaussian(tensor: Tensor, deviation: float, drawn: np.random.Generator) -> None:
    """Add independent normal values of this standard deviation, drawn in float64, in place."""
    noise = torch.from_numpy(drawn.standard_normal(tuple(tensor.shape)))
    tensor.add_(noise.mul_(deviation).to(tensor.dtype))
