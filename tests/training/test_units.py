"""A step's loss is the sum over its examples divided by the units of all of them, in parts and passes alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyrank.config import TrainingConfig
from polyrank.hf.resident import ResidentModel
from polyrank.training import batches, sequential
from polyrank.training.batched import engine as batched
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


@pytest.mark.parametrize("accumulate", [1, 5, 9])
@pytest.mark.parametrize("recipe", [{}, {"gradient_checkpointing": True}], ids=["kept", "recomputed"])
def test_the_update_does_not_depend_on_the_number_of_parts(model: ResidentModel, accumulate: int, recipe: dict):
    """One step, so the update is the gradient: to 1e-10 of it, for three clients of unequal numbers of tokens."""
    held = {name: examples(model, count, seed) for seed, (name, count) in enumerate({"a": 9, "b": 4, "c": 7}.items())}
    works = [work(model, name, seed) for seed, name in enumerate(held)]
    options = TrainingConfig(batch_size=9, lr=1.0, clip=0.0, optimizer="sgd")
    whole = updates(Sequential(model, TASK, held, options), works)
    cut = options.model_copy(update={"accumulate": accumulate, **recipe})
    calls: list[int] = []
    with model.model.register_forward_pre_hook(lambda *_: calls.append(1)):
        ends = [updates(Sequential(model, TASK, held, cut), works)]
    assert len(calls) == {1: 3, 5: 5 + 2 + 4, 9: 9 + 4 + 7}[accumulate]  # of 9, 2 and 1 examples at a time
    for found in (*ends, updates(Batched(model, TASK, held, cut, 3), works)):
        for update, expected, start in zip(found, whole, works, strict=True):
            assert update.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-10)
            for (name, tensor), (_, right), (_, before) in zip(
                *(each.adapter.tensors() for each in (update, expected, start)), strict=True
            ):
                assert (tensor - right).norm() <= 1e-10 * (right - before).norm(), name


def test_a_limit_of_tokens_changes_no_update(checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch):
    """As accelerators have it, with other numbers of parts for each client; with dropout batched is sequential."""
    model = resident(checkpoint("bert"), head="model", dtype=torch.float64, attention="sdpa", dropout=0.1)
    held = {name: examples(model, count, seed) for seed, (name, count) in enumerate({"a": 9, "b": 4, "c": 7}.items())}
    works = [work(model, name, seed) for seed, name in enumerate(held)]
    options = TrainingConfig(batch_size=9, lr=0.1, optimizer="sgd")
    most = batches.Limit(9, tokens=24)
    assert len({len(batches.parts(np.arange(len(own)), own.lengths, most)) for own in held.values()}) > 1
    for module in (sequential, batched):
        monkeypatch.setattr(module, "limit", lambda *_: most)
    pairs = (
        updates(Sequential(model, TASK, held, options), works),
        updates(Batched(model, TASK, held, options, 3), works),
    )
    for one, other in zip(*pairs, strict=True):
        for (name, tensor), (_, right) in zip(one.adapter.tensors(), other.adapter.tensors(), strict=True):
            torch.testing.assert_close(tensor, right, rtol=1e-8, atol=1e-11, msg=name)


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
