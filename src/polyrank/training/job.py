"""What an engine is asked to do: one client's work in one round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyrank.adapter import Adapter
from polyrank.state import ClientUpdate
from polyrank.tasks.classification import Examples


@dataclass(frozen=True, eq=False)
class Job:
    """One client's local training.

    Args:
        client: its name.
        adapter: what it was sent.
        examples: its own data.
        weight: its aggregation weight.
        seed: of all that is drawn in this job, derived from (run, round, client).
    """

    client: str
    adapter: Adapter
    examples: Examples
    weight: float
    seed: int


class Engine(Protocol):
    """A way to run jobs; every engine gives the sequential one's result."""

    def train(self, jobs: Sequence[Job]) -> Iterator[ClientUpdate]:
        """One update per job, in the order of the jobs."""
