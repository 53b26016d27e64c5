"""What the installed adapter comes to on a data set."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.metric import BY_KIND
from polyrank.tasks.task import Batch, Examples, Tally


@torch.inference_mode()
def evaluate(resident: ResidentModel, task: Task, examples: Examples, batch_size: int) -> Tally:
    """Sums and counts of whatever is installed, over all examples, longest first; `Task.measured` makes metrics of it.

    Args:
        resident: the model, with an adapter.
        task: what is measured.
        examples: at least one.
        batch_size: examples at a time.
    """
    found: Tally | None = None
    for _, batch in batches(resident, task, examples, batch_size):
        with resident.computing():
            own = task.scores(resident.model, batch)
        found = own if found is None else found + own
    assert found is not None
    return found


def batches(
    resident: ResidentModel, task: Task, examples: Examples, batch_size: int
) -> Iterator[tuple[np.ndarray, Batch]]:
    """All examples, longest first, for a model in evaluation mode: indices of some, and the batch of them."""
    order = np.argsort(-examples.lengths, kind="stable")
    resident.model.eval()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield rows, task.collate([(examples, rows)], resident.device)


def by_kind(
    resident: ResidentModel, task: Task, examples: Examples, kinds: Sequence[str], batch_size: int
) -> dict[str, Any]:  # Any: numbers, and kind -> one
    """Metrics of whatever is installed, and, where the task is to write and texts have kinds, those of each kind.

    The latter are ``NAME_by_kind``, kind -> value; kinds of which there is no text are left out.

    Args:
        resident: the model, with an adapter.
        task: what is measured.
        examples: at least one.
        kinds: names of the kinds.
        batch_size: examples at a time.
    """
    if not task.writes or examples.kinds is None:
        return task.measured(evaluate(resident, task, examples, batch_size))
    tallies = {
        kinds[kind]: evaluate(resident, task, examples.subset(np.flatnonzero(examples.kinds == kind)), batch_size)
        for kind in np.unique(examples.kinds)
    }
    each = {kind: task.measured(tally) for kind, tally in tallies.items()}
    whole = task.measured(reduce(operator.add, tallies.values()))
    return whole | {f"{name}{BY_KIND}": {kind: own[name] for kind, own in each.items()} for name in whole}
