"""What a client is asked to do in a round, what comes back, and whoever does it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from pydantic import Field
from torch import Tensor

from polyrank.core.adapter import PARTS, Adapter, Part
from polyrank.core.state import ClientUpdate
from polyrank.core.strict import Count
from polyrank.privacy.local import Guard
from polyrank.training.batches import steps_per_epoch

Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Penalty:
    """``weight * sum over modules |B[:, kept:]|_F |A[kept:, :]|_F``, added to the loss.

    It pushes the last rank indices to zero, so that a client that does not need them can be pruned. Source: Cho et al.
    2024 (HetLoRA), section 3.2.
    """

    kept: Count
    weight: Finite


@dataclass(frozen=True)
class Proximal:
    """``weight / 2 |w - w0|^2``, added to the loss: half the squared distance from where the client started.

    It keeps a client's round near to what all have in common. Distances are in the client's own values, B under its own
    scale. Source: Li et al. 2020 (FedProx), section 4.

    Args:
        weight: mu.
        parts: of the adapter, all of them trained; those that nobody else gets are left alone.
    """

    weight: Finite
    parts: frozenset[Part]


@dataclass(frozen=True, eq=False)
class Work:
    """All that a client is asked to do in a round, whoever does it; `polyrank.core.codec` sends it.

    A new field belongs here, and where the server fills it in (`polyrank.federation.server`).

    Args:
        client: its name.
        round: its number; 0 is the scoring round.
        adapter: what the client starts from, at its own rank and scale.
        seed: of all that is drawn in this work, derived from (run, round, client).
        base_change: a frozen update of the base beside the adapter.
        trains: the parts of the adapter that are trained.
        penalty: HetLoRA's regulariser, where the client may be pruned.
        scored: whether what it starts from is also measured, on the test set of whoever does the work.
        guard: what the client does to its update before it sends it.
        proximal: what keeps it near to where it starts.
        lr_share: of the learning rate, by the schedule over the rounds.
        chooses: how many rank indices, over all modules, the client chooses to train (`polyrank.training.choosing`);
            None where it trains all that it is sent.
    """

    client: str
    round: Count
    adapter: Adapter
    seed: int
    base_change: Adapter | None = None
    trains: frozenset[Part] = PARTS
    penalty: Penalty | None = None
    scored: bool = False
    guard: Guard | None = None
    proximal: Proximal | None = None
    lr_share: Finite = 1.0
    chooses: Count | None = None

    @property
    def noise(self) -> float:
        """How much is on what the client sends, in units of the clip; 0 without any."""
        return 0.0 if self.guard is None else self.guard.noise


@dataclass(frozen=True)
class Moved:
    """Bytes of tensors that really travelled: ``down`` to the client, ``up`` from it."""

    down: Count = 0
    up: Count = 0

    def __add__(self, other: Moved) -> Moved:
        return Moved(self.down + other.down, self.up + other.up)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a client's work: what it trained, or why there is nothing.

    Args:
        client: its name.
        trained: the tensors of the parts that were trained, by the names of `Adapter.tensors`; None if there are none.
        weight: the client's aggregation weight, its number of examples.
        metrics: what was measured in training: ``loss`` (mean over the steps) and ``steps``.
        problem: why nothing was trained, for people; empty if something was.
        scores: of what the client started from, where that was asked for.
        seconds: that the training took, where somebody else did it.
        moved: None where nothing travels.
        indices: module -> the rank indices that were trained, ascending, where the client chose them: the tensors are
            of those alone. None where it did not.
    """

    client: str
    trained: Mapping[str, Tensor] | None = None
    weight: Finite = 0.0
    metrics: Mapping[str, float | int] = field(default_factory=dict)
    problem: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    seconds: Finite | None = None
    moved: Moved | None = None
    indices: Mapping[str, tuple[Count, ...]] | None = None

    def update(self, work: Work) -> ClientUpdate | None:
        """What came of the work as an adapter: what was not trained is what it started from."""
        if self.trained is None:
            return None
        start = work.adapter if self.indices is None else work.adapter.picked(self.indices)
        return ClientUpdate(self.client, start.replaced(self.trained), self.weight, self.metrics, indices=self.indices)


class Engine(Protocol):
    """A way to do work; every engine gives the sequential one's result, and remembers nothing of it.

    Args:
        wire: dtype of tensors on their way to clients and back, which a run keeps to its end.
    """

    wire: str = "float32"

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """One outcome per work, in the order of the works."""

    def close(self) -> None:
        """Let go of what outlives a call, such as processes; most engines have nothing of the kind."""
        return


def in_passes(works: Sequence[Work], clients: int, examples: Mapping[str, Sized], batch_size: int) -> list[list[Work]]:
    """Works that are done together: at most so many, those of most steps first; ties in the order of the works."""
    by_steps = sorted(works, key=lambda work: -steps_per_epoch(len(examples[work.client]), batch_size))
    return [by_steps[i : i + clients] for i in range(0, len(by_steps), clients)]


def in_order(works: Sequence[Work], outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Outcomes in the order of the works, each as soon as those before it have come."""
    waiting = [work.client for work in works]
    done: dict[str, Outcome] = {}
    for outcome in outcomes:
        done[outcome.client] = outcome
        while waiting and waiting[0] in done:
            yield done.pop(waiting.pop(0))
