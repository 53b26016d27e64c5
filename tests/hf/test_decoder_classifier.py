"""A classifier of texts on a real decoder: where its head looks, what fills its batches up, and that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from polyrank.config import TrainingConfig
from polyrank.data.dataset import TextDataset
from polyrank.hf.resident import ResidentModel
from polyrank.tasks.classification import Classification
from polyrank.training.batched.engine import Batched
from polyrank.training.sequential import Sequential
from polyrank.training.work import Work
from tests import smollm2
from tests.models import resident, updates

pytestmark = pytest.mark.slow

TASK = Classification()
LABELS = ("animal", "number")
TEXTS = (
    *("A horse stood in the rain.", "Nine", "The cat of our neighbours sleeps on the warm stones by the wall.", "42"),
    *("Dogs bark.", "One half and one third make five sixths.", "An owl", "Seven times eight is fifty-six, they say."),
)
DATASET = TextDataset(TEXTS, np.arange(len(TEXTS)) % 2, LABELS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    folder: Path = smollm2.folder(tmp_path_factory.mktemp("smollm2"))
    found = resident(folder, labels=LABELS, dtype=torch.float32, attention="sdpa")
    found.model.eval()
    return found


def test_the_head_reads_the_last_token_of_each_text(model: ResidentModel):
    """Padded on the right with the end token, to which the head is told not to look."""
    tokenizer, base = model.base.tokenizer, model.model
    assert model.base.head_modules == ("score",)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id == base.config.pad_token_id
    examples = TASK.encode(DATASET, tokenizer, 32).examples
    assert not any(tokenizer.pad_token_id in tokens for tokens in examples.tokens)
    batch = TASK.collate([(examples, range(len(TEXTS)))], model.device)
    ends = torch.as_tensor(examples.lengths) - 1
    filled = torch.arange(batch.input_ids.shape[1]) > ends[:, None]
    assert filled.any()
    assert torch.equal(batch.attention_mask == 0, filled)
    assert (batch.input_ids[filled] == tokenizer.pad_token_id).all()
    with torch.inference_mode():
        found = base(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        states = base.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        by_hand = base.score(states[torch.arange(len(TEXTS)), ends])
        alone = [base(input_ids=torch.as_tensor(tokens)[None]).logits[0] for tokens in examples.tokens]
    torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-3, atol=1e-3)


def test_it_learns_by_heart_in_both_engines(model: ResidentModel):
    """Two clients with half of the texts each: the engines agree, and the first one's adapter knows its texts."""
    examples = TASK.encode(DATASET, model.base.tokenizer, 32).examples
    held = {"a": examples.subset(np.arange(4)), "b": examples.subset(np.arange(4, 8))}
    works = [Work(client, rank, model.initial(rank, 2.0, 0), seed=1) for client, rank in (("a", 4), ("b", 8))]
    options = TrainingConfig(lr=1e-3, batch_size=4, epochs=8)
    ours = updates(Batched(model, TASK, held, options, clients_per_pass=2), works)
    theirs = updates(Sequential(model, TASK, held, options), works)
    for one, other in zip(ours, theirs, strict=True):
        for (name, a), (_, b) in zip(one.adapter.tensors(), other.adapter.tensors(), strict=True):
            assert float((a - b).norm()) <= 1e-2 * float(b.norm()), name
    model.install(ours[0].adapter)
    model.model.eval()
    batch = TASK.collate([(held["a"], range(4))], model.device)
    with torch.inference_mode():
        logits = model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert logits.argmax(dim=-1).tolist() == [0, 1, 0, 1]
