"""The engine that a resolved configuration names."""

from __future__ import annotations

from polyrank.config import TrainingConfig
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.training.batched.engine import Batched
from polyrank.training.profile import Clock
from polyrank.training.sequential import Sequential


def local_engine(resident: ResidentModel, task: Task, options: TrainingConfig, clock: Clock) -> Sequential | Batched:
    """In this process, on this base."""
    if options.engine == "batched" and options.clients_per_pass != "auto":
        return Batched(resident, task, options, options.clients_per_pass, clock)
    return Sequential(resident, task, options, clock)
