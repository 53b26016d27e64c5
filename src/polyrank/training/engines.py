"""The engine that a resolved configuration names, in this process."""

from __future__ import annotations

from collections.abc import Mapping

from polyrank.config import TrainingConfig
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.batched.engine import Batched
from polyrank.training.lanes import Lanes, SideBySide
from polyrank.training.local import Local
from polyrank.training.profile import Clock
from polyrank.training.sequential import Sequential


def local_engine(
    resident: ResidentModel, task: Task, examples: Mapping[str, Examples], options: TrainingConfig, clock: Clock
) -> Local:
    """The engine in this thread, on this base, with these clients' examples."""
    if options.engine == "batched" and options.clients_per_pass != "auto":
        return Batched(resident, task, examples, options, options.clients_per_pass, clock=clock)
    return Sequential(resident, task, examples, options, clock=clock)


def engine_in_lanes(
    lanes: Lanes, task: Task, examples: Mapping[str, Examples], options: TrainingConfig, clock: Clock
) -> Local | SideBySide:
    """The engine in this process, one in each lane; with one lane it is the lane's own."""
    if lanes.count == 1:
        return local_engine(lanes.residents[0], task, examples, options, clock)
    engines = [
        local_engine(resident, task, examples, options, Clock(resident.device, running=clock.running))
        for resident in lanes.residents
    ]
    return SideBySide(lanes, engines, clock)
