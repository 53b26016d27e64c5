from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from polyrank.config import TrainingConfig
from polyrank.hf.files import quiet
from polyrank.training.sequential import Sequential
from polyrank.training.work import Job
from tests import models
from tests.models import TASK, Checkpoints, batch, logits, random_adapter, resident

OTHER_FORMS: dict[str, Any] = {
    **{"return_dict": False, "output_attentions": True, "output_hidden_states": True, "torchscript": True},
    **{"gradient_checkpointing": True, "chunk_size_feed_forward": 7, "use_cache": True},
}
FAMILIES = (*models.ARCHITECTURES, "deberta-v2", "bart", "t5")


def edited(folder: Path, to: Path, changes: dict[str, Any]) -> Path:
    """A copy with other values in its config.json, as checkpoints of older transformers have them."""
    shutil.copytree(folder, to)
    path = to / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return to


@pytest.mark.parametrize("setting", OTHER_FORMS)
@pytest.mark.parametrize("architecture", FAMILIES)
def test_forms_of_the_output_and_memory_change_no_logits(
    checkpoint: Checkpoints, tmp_path: Path, architecture: str, setting: str
):
    plain = checkpoint(architecture)
    other = edited(plain, tmp_path / "other", {setting: OTHER_FORMS[setting]})
    found = []
    for folder in (plain, other):
        model = resident(folder, head="model", attention="eager")
        model.install(random_adapter(model))
        found.append(logits(model.model.train(False), batch(model)))
    assert torch.equal(*found)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "gpt2"])
def test_a_checkpoint_that_asks_for_recomputed_layers_trains_the_same(
    checkpoint: Checkpoints, tmp_path: Path, architecture: str
):
    """With dropout of a half: a layer that was computed once more would draw other masks, and its gradient be wrong."""
    plain = checkpoint(architecture)
    other = edited(plain, tmp_path / "other", {"gradient_checkpointing": True})
    found = []
    for folder in (plain, other):
        model = resident(folder, head="model", attention="eager", dropout=0.5)
        adapter = model.initial(2, 2.0, 0)
        job = Job("ann", adapter, models.examples(model, 12), 1.0, 5)
        (update,) = Sequential(model, TASK, TrainingConfig(batch_size=4)).train([job])
        found.append(update.adapter)
    assert found[0].identical(found[1])


@pytest.mark.parametrize("chunk", [1, 2, 4, 5])
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "albert"])
def test_chunks_of_the_feed_forward_part(checkpoint: Checkpoints, architecture: str, chunk: int):
    """As transformers computes it in chunks where the length allows that, and at every other length too."""
    folder = checkpoint(architecture, classifier=2)
    with quiet():
        plain = AutoModelForSequenceClassification.from_pretrained(
            folder, chunk_size_feed_forward=chunk, attn_implementation="eager"
        ).eval()
    model = resident(
        folder, labels=("0", "1"), head="model", attention="eager", config={"chunk_size_feed_forward": chunk}
    )
    for length in (20, 19, 1):
        ids = torch.arange(2 * length).view(2, length) % 12 + 5
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            found = model.model(**inputs).logits
            if length % chunk == 0:
                torch.testing.assert_close(found, plain(**inputs).logits, rtol=1e-5, atol=1e-5)
        assert torch.isfinite(found).all()
