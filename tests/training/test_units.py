"""A step's loss is the sum over its examples divided by the units of all of them, in parts and passes alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyrank.config import TrainingConfig
from polyrank.hf.resident import ResidentModel
from polyrank.training import batches
from polyrank.training.batched.engine import Batched
from polyrank.training.sequential import Sequential, total_of
from polyrank.training.work import Work
from tests.models import Checkpoints, examples, random_adapter, resident, updates
from tests.tasks.doctored import ByToken

TASK = ByToken()


@pytest.fixture
def model(checkpoint: Checkpoints) -> ResidentModel:
    config = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return resident(checkpoint("bert"), head="model", config=config, dtype=torch.float64, attention="sdpa")


def work(model: ResidentModel, client: str, seed: int) -> Work:
    return Work(client, 1, random_adapter(model, seed), seed)


def test_by_hand(model: ResidentModel):
    """One step over all: each text's loss times its tokens, over all tokens."""
    one, held = work(model, "a", 1), examples(model, 7, 1)
    model.install(one.adapter)
    with torch.no_grad():
        losses = TASK.losses(model.model, TASK.collate([(held, range(7))], model.device))
    (update,) = updates(Sequential(model, TASK, {"a": held}, TrainingConfig(batch_size=7)), [one])
    expected = float(losses.sum()) / held.lengths.sum()
    assert update.metrics["loss"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("part", [1, 3, 7])
def test_parts_and_passes_are_the_whole(model: ResidentModel, monkeypatch: pytest.MonkeyPatch, part: int):
    """Three clients with unequal numbers of tokens in one pass, each step in parts of so many examples."""
    held = {name: examples(model, count, seed) for seed, (name, count) in enumerate({"a": 7, "b": 4, "c": 9}.items())}
    works = [work(model, name, seed) for seed, name in enumerate(held)]
    options = TrainingConfig(batch_size=7, epochs=2, lr=0.01, optimizer="sgd")
    whole = list(updates(Sequential(model, TASK, held, options), works))
    monkeypatch.setattr(batches, "PART", part)
    for engine in (Sequential(model, TASK, held, options), Batched(model, TASK, held, options, 3)):
        for update, expected in zip(updates(engine, works), whole, strict=True):
            assert update.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-10)
            for (name, tensor), (_, right) in zip(update.adapter.tensors(), expected.adapter.tensors(), strict=True):
                torch.testing.assert_close(tensor, right, rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.parametrize("rows", [1, 2, 11, 12, 16, 100, 1000])
def test_losses_are_added_up_as_torch_adds_them(rows: int):
    """Bit for bit what a cross-entropy gives that is summed by torch, and each row's gradient is 1."""
    generator = torch.Generator().manual_seed(rows)
    logits, classes = torch.randn(rows, 5, generator=generator), torch.arange(rows) % 5
    each = torch.nn.functional.cross_entropy(logits, classes, reduction="none").requires_grad_()
    total = total_of(each)
    assert total == torch.nn.functional.cross_entropy(logits, classes, reduction="sum")
    total.backward()
    assert np.array_equal(each.grad, np.ones(rows))
