"""Whether a model reads the texts, tried before anything is trained on them."""

from __future__ import annotations

import numpy as np
import torch

from polyrank.core.errors import ModelError
from polyrank.data.dataset import TextDataset
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Encoded


@torch.inference_mode()
def check_reads(resident: ResidentModel, task: Task, dataset: TextDataset, encoded: Encoded) -> None:
    """Compute the longest and the shortest text, as one batch.

    Args:
        resident: the model.
        task: what is learned; it knows which answers it needs of the model.
        dataset: the texts.
        encoded: their tokens.

    Raises:
        ModelError: the model fails at them, or gives no loss for each of them; names the longest.
    """
    examples = encoded.examples
    ends = np.array([int(examples.lengths.argmax()), int(examples.lengths.argmin())])
    batch = task.collate([(examples, ends)], resident.device)
    resident.model.eval()
    try:
        with resident.computing():
            losses = task.losses(resident.model, batch)
        said = "" if losses.shape == (len(ends),) else f"its losses are {list(losses.shape)}"
    except torch.OutOfMemoryError:
        raise
    except ModelError as error:
        said = str(error)
    except Exception as error:  # whatever an architecture raises for an input that it was not made for
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if said:
        length = int(examples.lengths.max())
        raise ModelError(
            f"{resident.base.config.name} under the head {resident.base.config.head} cannot read the texts: {said} "
            f"(the longest has {length} tokens: {dataset.place(int(encoded.kept[ends[0]]))}; lower data.max_tokens, or "
            "take another model or model.head)"
        )
