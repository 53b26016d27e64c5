"""What an adapter comes to on a data set."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.metric import BY_KIND
from polyrank.tasks.task import Batch, Examples, Tally
from polyrank.training.lanes import Lanes

Install = Callable[[ResidentModel], None]
"""Puts into a base what is measured."""


def evaluate(resident: ResidentModel, task: Task, examples: Examples, batch_size: int) -> Tally:
    """Sums and counts of whatever is installed, over all examples; `Task.measured` makes metrics of it.

    Args:
        resident: the model, with an adapter.
        task: what is measured.
        examples: at least one.
        batch_size: examples at a time, longest first.
    """
    return reduce(operator.add, (_scores(resident, task, examples, rows) for rows in _rows(examples, batch_size)))


def tallies(
    lanes: Lanes, task: Task, sets: Sequence[Examples], batch_size: int, install: Install | None = None
) -> list[Tally]:
    """`evaluate` of each of several sets, whose batches are spread over the lanes.

    Args:
        lanes: the model.
        task: what is measured.
        sets: each of at least one example.
        batch_size: examples at a time, longest first.
        install: what is measured; without it, whatever each lane has installed.
    """
    ready: set[int] = set()

    def score(lane: int, batch: tuple[int, np.ndarray]) -> tuple[int, Tally]:
        resident, (number, rows) = lanes.residents[lane], batch
        if install is not None and lane not in ready:
            install(resident)
            ready.add(lane)
        return number, _scores(resident, task, sets[number], rows)

    parts = ((number, rows) for number, own in enumerate(sets) for rows in _rows(own, batch_size))
    found: dict[int, Tally] = {}
    for number, own in lanes.map(score, parts):
        found[number] = found[number] + own if number in found else own
    return list(found.values())


@torch.inference_mode()
def _scores(resident: ResidentModel, task: Task, examples: Examples, rows: np.ndarray) -> Tally:
    resident.model.eval()
    with resident.computing():
        return task.scores(resident.model, task.collate([(examples, rows)], resident.device))


def _rows(examples: Examples, batch_size: int) -> Iterator[np.ndarray]:
    """Indices of all examples, longest first, so many at a time."""
    order = np.argsort(-examples.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def batches(
    resident: ResidentModel, task: Task, examples: Examples, batch_size: int
) -> Iterator[tuple[np.ndarray, Batch]]:
    """All examples, longest first, for a model in evaluation mode: indices of some, and the batch of them."""
    resident.model.eval()
    for rows in _rows(examples, batch_size):
        yield rows, task.collate([(examples, rows)], resident.device)


def by_kind(
    lanes: Lanes,
    task: Task,
    examples: Examples,
    kinds: Sequence[str],
    batch_size: int,
    *,
    install: Install | None = None,
) -> dict[str, Any]:  # Any: numbers, and kind -> one
    """Metrics, and, where the task is to write and texts have kinds, those of each kind.

    The latter are ``NAME_by_kind``, kind -> value; kinds of which there is no text are left out.

    Args:
        lanes: the model.
        task: what is measured.
        examples: at least one.
        kinds: names of the kinds.
        batch_size: examples at a time.
        install: as of `tallies`.
    """
    if not task.writes or examples.kinds is None:
        return task.measured(tallies(lanes, task, [examples], batch_size, install)[0])
    present = np.unique(examples.kinds)
    sets = [examples.subset(np.flatnonzero(examples.kinds == kind)) for kind in present]
    found = tallies(lanes, task, sets, batch_size, install)
    each = {kinds[kind]: task.measured(tally) for kind, tally in zip(present, found, strict=True)}
    whole = task.measured(reduce(operator.add, found))
    return whole | {f"{name}{BY_KIND}": {kind: own[name] for kind, own in each.items()} for name in whole}
