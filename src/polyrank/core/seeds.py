"""Randomness: every draw comes from a generator that is derived from (run seed, purpose, round, client, ...).

Nothing in PolyRank uses a global generator but inside `seeded`, so the order in which clients are trained, and what
else runs in the process, cannot change a result; and a resumed run draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one purpose; different paths give independent streams.

    >>> derive(0, "sampling", 3) == derive(0, "sampling", 3)
    True
    >>> derive(0, "sampling", 3) == derive(0, "sampling", 4)
    False
    """
    # numpy's strings and integers are the same names and numbers, so they must give the same stream
    text = "\x1f".join(f"str:{part}" if isinstance(part, str) else f"int:{index(part)}" for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *path: str | int) -> torch.Generator:
    """A torch generator on the CPU for one purpose."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *path))


def numpy_generator(seed: int, *path: str | int) -> np.random.Generator:
    """A numpy generator for one purpose."""
    import numpy as np

    return np.random.default_rng(derive(seed, *path))


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """For libraries that draw from torch's global generators: seeded inside, and as they were afterwards."""
    import torch

    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
