"""What an engine is asked to do: one client's work in one round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyrank.config import TrainingConfig
from polyrank.core.adapter import Adapter
from polyrank.core.state import ClientUpdate
from polyrank.tasks.task import Examples
from polyrank.training.batches import steps_per_epoch


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
        round: its number; 0 is the scoring round.
    """

    client: str
    adapter: Adapter
    examples: Examples
    weight: float
    seed: int
    base_change: Adapter | None = None
    trains: frozenset[str] = frozenset({"a", "b", "head"})
    penalty: Penalty | None = None
    round: int = 0


def in_passes(jobs: Sequence[Job], clients: int, options: TrainingConfig) -> list[list[Job]]:
    """Jobs that are trained together: at most so many, those of most steps first; ties in the order of the jobs."""
    by_steps = sorted(jobs, key=lambda job: -steps_per_epoch(len(job.examples), options.batch_size))
    return [by_steps[i : i + clients] for i in range(0, len(by_steps), clients)]


def in_order(jobs: Sequence[Job], updates: Iterable[ClientUpdate]) -> Iterator[ClientUpdate]:
    """Updates in the order of the jobs, each as soon as those before it have come."""
    waiting = [job.client for job in jobs]
    done: dict[str, ClientUpdate] = {}
    for update in updates:
        done[update.client] = update
        while waiting and waiting[0] in done:
            yield done.pop(waiting.pop(0))


class Engine(Protocol):
    """A way to run jobs; every engine gives the sequential one's result.

    Args:
        wire: dtype of tensors on their way to clients and back, which a run keeps to its end.
    """

    wire: str = "float32"

    def train(self, jobs: Sequence[Job]) -> Iterator[ClientUpdate]:
        """One update per job, in the order of the jobs."""

    def failures(self) -> Mapping[str, str]:
        """Clients of the last call that gave no update, and why; on this machine there are none."""
        return {}

    def traffic(self) -> tuple[int, int] | None:
        """Bytes of tensors that the last call really moved, up and down; None on this machine, where none travel."""
        return None

    def close(self) -> None:
        """Let go of what outlives a call, such as processes; most engines have nothing of the kind."""
        return
