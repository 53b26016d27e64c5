"""How many compiled kernels oneDNN keeps, settled before torch is loaded, which reads it once.

oneDNN compiles each product in bfloat16 for its shape, and texts have many lengths: with the thousand that torch and
oneDNN keep unless told otherwise, a process that trains the writing quickstart's decoder grows to twice its memory.
"""

from __future__ import annotations

import os

CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Environment variables of oneDNN and of torch's layer above it; what a user sets in them stays."""
KERNELS = 128
"""More than a step needs, forward and backward: two steps seldom have the same lengths."""


def settle() -> None:
    """Keep so many, in this process and those that it starts."""
    for name in CAPACITIES:
        os.environ.setdefault(name, str(KERNELS))
