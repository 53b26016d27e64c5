"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

PHASES = ("arithmetic", "data", "optimiser", "aggregation", "evaluation", "overhead")
"""``arithmetic``: forward and backward passes, adapters put in and gradients taken out; ``overhead``: all the rest."""


class Clock:
    """Seconds per phase; phases do not overlap.

    Args:
        device: waited for at the end of a phase where it works on its own, and only while ``running``.
        running: whether time is booked at all.
    """

    def __init__(self, device: torch.device | None = None, *, running: bool = False) -> None:
        self.device, self.running = device, running
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Book what happens inside."""
        if not self.running:
            yield
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            if self.device is not None and self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.book(phase, time.perf_counter() - start)

    def book(self, phase: str, seconds: float) -> None:
        """Add to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    @contextmanager
    def shares(self) -> Iterator[Callable[[Mapping[str, float]], None]]:
        """Book the time that passes inside in proportion to what other processes booked meanwhile.

        Their seconds go to the function that this gives, as often as any come.
        """
        start, theirs = time.perf_counter(), Clock()

        def book(seconds: Mapping[str, float]) -> None:
            for phase, value in seconds.items():
                theirs.book(phase, value)

        yield book
        total = sum(theirs.seconds.values())
        if self.running and total:
            passed = time.perf_counter() - start
            for phase, value in theirs.seconds.items():
                self.book(phase, passed * value / total)

    def shared_out(self, seconds: float) -> dict[str, float]:
        """A round's seconds by phase, by what was booked since the last call; nothing where the clock does not run."""
        if not self.running:
            return {}
        booked = self.take()
        booked["overhead"] = max(seconds - sum(booked.values()), 0.0)
        return {phase: booked.get(phase, 0.0) for phase in PHASES}

    def take(self) -> dict[str, float]:
        """What was booked since the last call."""
        taken, self.seconds = self.seconds, {}
        return taken
