"""What engines in this process have in common: one base, the clients' examples, a clock."""

from __future__ import annotations

from collections.abc import Mapping

from polyrank.config import TrainingConfig
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.profile import Clock
from polyrank.training.work import Engine


class Local(Engine):
    """An engine in this process.

    Args:
        resident: the base.
        task: what is learned.
        examples: client -> what it learns from.
        options: of the training.
        clock: where time is booked.
    """

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
