"""Whether a model reads the texts, tried before anything is trained on them."""

from __future__ import annotations

import numpy as np
import torch

from polyrank.core.errors import ModelError
from polyrank.data.dataset import TextDataset
from polyrank.hf.resident import ResidentModel
from polyrank.tasks.classification import Examples, collate


@torch.inference_mode()
def check_reads(resident: ResidentModel, dataset: TextDataset, examples: Examples) -> None:
    """Compute the longest and the shortest text, as one batch.

    Args:
        resident: the model.
        dataset: the texts.
        examples: their tokens.

    Raises:
        ModelError: the model fails at them, or gives no logits for them; names the longest.
    """
    ends = np.array([int(examples.lengths.argmax()), int(examples.lengths.argmin())])
    batch = collate(examples, ends, resident.device)
    resident.model.eval()
    try:
        with resident.computing():
            logits = resident.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        said = "" if logits.ndim == 2 and len(logits) == len(ends) else f"its logits are {list(logits.shape)}"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an architecture raises for an input that it was not made for
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if said:
        length = int(examples.lengths.max())
        raise ModelError(
            f"{resident.base.config.name} under the head {resident.base.config.head} cannot read the texts: {said} "
            f"(the longest has {length} tokens: {dataset.place(int(ends[0]))}; lower data.max_tokens, or take another "
            "model or model.head)"
        )
