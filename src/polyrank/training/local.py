"""What engines in this process have in common: one base, the clients' examples, a clock."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from polyrank.config import TrainingConfig
from polyrank.core.seeds import seeded
from polyrank.hf.recompute import recomputed
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.dropout import ClientDropout
from polyrank.training.profile import Clock
from polyrank.training.work import Engine, Outcome, Work, in_passes


class HaltedError(Exception):
    """A pass was ended from outside; nobody waits for its outcomes."""


class Local(Engine):
    """An engine in this process.

    Args:
        resident: the base.
        task: what is learned.
        examples: client -> what it learns from.
        options: of the training.
        clock: where time is booked.

    Attributes:
        clients_per_pass: the most clients that it computes together.
        alone: whether no other engine of this process computes at the same time.
        halted: set from another thread to end a pass at its next step.
        whole: how many of the last layers are never recomputed, whatever the options say: for measuring what one keeps.
    """

    clients_per_pass: int = 1
    alone = True
    whole = 0

    def __init__(
        self,
        resident: ResidentModel,
        task: Task,
        examples: Mapping[str, Examples],
        options: TrainingConfig,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.resident, self.task, self.examples, self.options = resident, task, examples, options
        self.clock = clock or Clock(resident.device)
        self.halted = threading.Event()

    def passes(self, works: Sequence[Work]) -> list[list[Work]]:
        """The works that are computed together, those of most steps first."""
        return in_passes(works, self.clients_per_pass, self.examples, self.options.batch_size)

    @abstractmethod
    def together(self, works: Sequence[Work]) -> Iterable[Outcome]:
        """The outcomes of one pass."""

    def seeded(self, seed: int) -> AbstractContextManager[None]:
        """For what draws past the clients' streams, which is refused where several draw from one generator."""
        return seeded(seed, self.resident.device) if self.alone else nullcontext()

    def go_on(self) -> None:
        """Asked before each step.

        Raises:
            HaltedError: nobody waits for the pass any more.
        """
        if self.halted.is_set():
            raise HaltedError("the pass was ended")

    def training(self) -> AbstractContextManager[None]:
        """The base in training mode, as the options want it."""
        return in_training(self.resident, self.options, whole=self.whole)


@contextmanager
def in_training(resident: ResidentModel, options: TrainingConfig, *, whole: int = 0) -> Iterator[None]:
    """A base in training mode, its layers recomputed where the options say so; in evaluation mode afterwards.

    Args:
        resident: the base.
        options: of the training.
        whole: so many of the last layers are not recomputed.

    Raises:
        ModelError: layers are to be recomputed, and the model has none.
    """
    model = resident.model
    again = options.gradient_checkpointing
    with recomputed(model, ClientDropout.recomputing, whole=whole) if again else nullcontext():
        model.train()
        try:
            yield
        finally:
            model.eval()
