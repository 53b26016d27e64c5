"""What the installed adapter comes to on a data set."""

from __future__ import annotations

import numpy as np
import torch

from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples, Tally


@torch.inference_mode()
def evaluate(resident: ResidentModel, task: Task, examples: Examples, batch_size: int) -> Tally:
    """Sums and counts of whatever is installed, over all examples, longest first; `Task.measured` makes metrics of it.

    Args:
        resident: the model, with an adapter.
        task: what is measured.
        examples: at least one.
        batch_size: examples at a time.
    """
    order = np.argsort(-examples.lengths, kind="stable")
    resident.model.eval()
    found: Tally | None = None
    for start in range(0, len(order), batch_size):
        batch = task.collate([(examples, order[start : start + batch_size])], resident.device)
        with resident.computing():
            own = task.scores(resident.model, batch)
        found = own if found is None else found + own
    assert found is not None
    return found
