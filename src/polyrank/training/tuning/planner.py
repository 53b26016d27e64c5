"""How a cohort is trained fastest: precision, attention, clients to a pass and processes, chosen together.

Measured on the clients' own examples by the engine that will train them, not guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from polyrank.config import TrainingConfig
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.batched.engine import Batched
from polyrank.training.batches import steps_per_epoch
from polyrank.training.dropout import UnbatchableError
from polyrank.training.local import Local
from polyrank.training.sequential import Sequential
from polyrank.training.tuning.forms import Bases, Form, Load
from polyrank.training.tuning.search import STEPS, Search, Settled, room_for_lanes
from polyrank.training.work import Work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What was chosen for the engine.

    Args:
        engine: ``sequential`` or ``batched``.
        clients_per_pass: of the batched engine.
        workers: processes.
        lanes: passes at a time in each of them.
        reason: why clients cannot be batched; for the user.
        before: whether it was measured at an earlier start.
    """

    engine: str
    clients_per_pass: int
    workers: int
    lanes: int = 1
    reason: str = ""
    before: bool = False

    def __str__(self) -> str:
        how = "one client after another"
        if self.engine == "batched" and self.clients_per_pass > 1:
            how = f"{self.clients_per_pass} clients in one pass"
        how += f", {self.lanes} passes at a time" if self.lanes > 1 else ""
        how += f", {self.workers} processes" if self.workers > 1 else ""
        how += " (as measured before)" if self.before else ""
        return how + (f" (not batched: {self.reason})" if self.reason else "")


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen.

    Args:
        form: of the base.
        resident: the base in that form, ready to train.
        plan: of the engine.
    """

    form: Form
    resident: ResidentModel
    plan: Plan


def choose(
    load: Load,
    task: Task,
    examples: Mapping[str, Examples],
    options: TrainingConfig,
    works: Callable[[ResidentModel], Sequence[Work]],
    *,
    rounds: int,
) -> Choice:
    """The fastest way to train such a cohort that fits into memory; what is not ``auto`` is taken as it is.

    Args:
        load: loads the base.
        task: what is learned.
        examples: client -> what it learns from.
        options: of the training.
        works: a base -> a cohort's works.
        rounds: how often such a cohort will be trained.

    Raises:
        ModelError: the base has no such form.
    """
    bases = Bases(load, options)
    asked = works(bases.base(bases.forms[0]))
    held = {work.client: examples[work.client] for work in asked}
    steps = rounds * sum(options.epochs * steps_per_epoch(len(own), options.batch_size) for own in held.values())

    once = options.model_copy(update={"epochs": 1})
    on_gpu = bases.base(bases.forms[0]).device.type == "cuda"

    @cache
    def samples(timed: int) -> dict[str, Examples]:
        return {client: own.subset(typical(own.lengths, options, timed)) for client, own in held.items()}

    def found(engine: str) -> Choice:
        def make(base: ResidentModel, timed: int) -> Local:
            common = (base, task, samples(timed), once)
            return Batched(*common, 1) if engine == "batched" else Sequential(*common)

        width = options.clients_per_pass if engine == "batched" else 1
        lanes = options.lanes if options.lanes != "auto" or room_for_lanes(asked, options, on_gpu=on_gpu) else 1
        settled = Settled(*(None if key == "auto" else key for key in (width, lanes, options.workers)))
        said = engine in ("sequential", options.engine) and len(bases.forms) == 1
        if said and settled.width and settled.lanes and settled.workers:
            only = bases.base(bases.forms[0])
            make(only, STEPS)  # which says where it cannot be had
            return Choice(bases.forms[0], only, Plan(engine, settled.width, settled.workers, settled.lanes))
        search = Search(bases, make, asked, steps, settled)
        way, processes = search.best()
        plan = Plan(engine, way.width if width == "auto" else width, processes, way.lanes)
        return Choice(way.form, bases.base(way.form), plan)

    if options.engine == "sequential":
        return found("sequential")
    try:
        return found("batched")
    except UnbatchableError as error:  # of the model, or of a step that was tried
        log.warning("clients are trained one after another: %s", error)
        choice = found("sequential")
        return replace(choice, plan=replace(choice.plan, reason=str(error)))


def typical(lengths: np.ndarray, options: TrainingConfig, steps: int = STEPS) -> np.ndarray:
    """Rows of a few batches that are as long as the client's examples are, at even distances by length.

    The last batch is one short: a tensor that has as many rows as one batch by chance is not taken for one of examples.
    """
    count = min(len(lengths), max(steps * options.batch_size - 1, steps))
    by_length = np.argsort(lengths, kind="stable")
    places = np.linspace(0, len(lengths) - 1, count).round().astype(np.int64)
    return np.asarray(by_length[places])
