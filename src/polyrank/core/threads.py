"""How many threads compute, and how they wait for one another; settled before torch is loaded, which reads it once.

Threads that spin while they wait take the cores of whoever else computes on the machine, and are then slowed by much
more than the other's share; threads that sleep at once are slow where waking takes long, as on virtual machines. So
they spin about as long as waking takes, and sleep then; see ``benchmarks/neighbour.py``.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache

from polyrank.core.limits import affinity, cores

WAIT, SPIN, COUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"
"""Environment variables of OpenMP, which torch's threads are of; what a user sets in them stays."""
SPINS = 1000
"""Turns of GNU's OpenMP before a thread sleeps; others know the policy only."""
M_ARENA_MAX = -8
"""Of GNU's ``mallopt``."""


@lru_cache(maxsize=1)
def settle() -> str:
    """Let threads sleep while they wait, and be no more than this process may use; in words, what holds.

    All is in the environment, so that processes which this one starts have them too. Called by ``import polyrank``;
    where torch was loaded before, it is too late for this process.
    """
    found = os.environ.get(WAIT)
    late = "torch" in sys.modules
    if found is None:  # a number of turns is stronger than the policy, so whoever says one of them has said it all
        os.environ[WAIT] = "PASSIVE"
        os.environ.setdefault(SPIN, str(SPINS))
    if not late and (count := cores()) < affinity():
        os.environ.setdefault(COUNT, str(count))
    if found is not None:
        return f"{found.lower()}, by {WAIT}"
    if late:
        return f"as torch has it, which was loaded before polyrank: import polyrank first, or set {WAIT}=PASSIVE"
    return f"passive, after {os.environ[SPIN]} turns ({SPIN})"


def one_heap() -> None:
    """Let all threads take memory from one heap: what a lane let go of is then there for another one.

    GNU's allocator gives each thread a heap of its own otherwise, which keeps its peak; others are as they are.
    """
    allocator = getattr(ctypes.CDLL(None), "mallopt", None)
    if allocator is not None:
        allocator(M_ARENA_MAX, 1)
