"""What an engine is asked to do: one client's work in one round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyrank.adapter import Adapter
from polyrank.state import ClientUpdate
from polyrank.tasks.classification import Examples


@dataclass(frozen=True)
class Penalty:
    """``weight * sum over modules |B[:, kept:]|_F |A[kept:, :]|_F``, added to the loss.

    It pushes the last rank indices to zero, so that a client that does not need them can be pruned. Source: Cho et al.
    2024 (HetLoRA), section 3.2.
    """

    kept: int
    weight: float


@dataclass(frozen=True, eq=False)
class Job:
    """One client's local training.

    Args:
        client: its name.
        adapter: what it was sent.
        examples: its own data.
        weight: its aggregation weight.
        seed: of all that is drawn in this job, derived from (run, round, client).
        base_change: a frozen update of the base beside the adapter.
        trains: which of ``"a"``, ``"b"`` and ``"head"`` are trained.
        penalty: HetLoRA's regulariser, where the client may be pruned.
    """

    client: str
    adapter: Adapter
    examples: Examples
    weight: float
    seed: int
    base_change: Adapter | None = None
    trains: frozenset[str] = frozenset({"a", "b", "head"})
    penalty: Penalty | None = None


class Engine(Protocol):
    """A way to run jobs; every engine gives the sequential one's result."""

    def train(self, jobs: Sequence[Job]) -> Iterator[ClientUpdate]:
        """One update per job, in the order of the jobs."""
