from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polyrank.core.adapter import Adapter
from polyrank.hf.resident import ResidentModel
from polyrank.tasks.task import Examples
from polyrank.training.evaluate import evaluate
from tests.models import TASK, Checkpoints, examples, random_adapter, resident


@pytest.fixture
def bert(checkpoint: Checkpoints) -> ResidentModel:
    return resident(checkpoint("bert"), head="model")


def scores(model: ResidentModel, data: Examples, batch_size: int) -> dict[str, float]:
    return TASK.measured(evaluate(model, TASK, data, batch_size))


def constant(model: ResidentModel, *logits: float) -> Adapter:
    """An adapter under which every text has the same logits."""
    start = model.initial(1, 1.0, 0)
    weight = torch.zeros_like(start.dense["classifier.weight"])
    return Adapter(start.modules, {"classifier.weight": weight, "classifier.bias": torch.tensor(logits)})


def test_scores_by_hand(bert: ResidentModel):
    """Logits (ln 3, 0) are probabilities of 3/4 and 1/4; the labels are 0, 0, 1, so 2 of 3 answers are right.

    Loss (2 ln(4/3) + ln 4) / 3. F1 of class 0: 2 * 2 / (3 + 2) = 4/5; class 1 is never predicted: 0; the mean is 2/5.
    """
    bert.install(constant(bert, math.log(3), 0.0))
    some = examples(bert, 3)
    found = scores(bert, Examples(some.tokens, np.array([0, 0, 1]), some.pad_id), 2)
    assert found["loss"] == pytest.approx((2 * math.log(4 / 3) + math.log(4)) / 3, rel=1e-6)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["macro_f1"] == pytest.approx(2 / 5)


def test_batch_size_does_not_matter(bert: ResidentModel):
    bert.install(random_adapter(bert))
    data = examples(bert, 23)
    expected = scores(bert, data, 1)
    assert 0 < expected["accuracy"] < 1
    for batch_size in (4, 22, 23, 100):
        found = scores(bert, data, batch_size)
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert (found["accuracy"], found["macro_f1"]) == (expected["accuracy"], expected["macro_f1"])


def test_order_does_not_matter(bert: ResidentModel):
    """Texts are evaluated by length; answers go back to where they belong."""
    bert.install(random_adapter(bert))
    data = examples(bert, 23)
    expected = scores(bert, data, 4)
    found = scores(bert, data.subset(np.random.default_rng(0).permutation(23)), 4)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert (found["accuracy"], found["macro_f1"]) == (expected["accuracy"], expected["macro_f1"])


def test_nothing_is_dropped_nor_changed(bert: ResidentModel):
    """A model that was left in training mode has dropout on; evaluation turns it off and needs no gradient."""
    adapter = random_adapter(bert)
    bert.install(adapter)
    data = examples(bert, 10)
    expected = scores(bert, data, 4)
    bert.model.train()
    assert scores(bert, data, 4) == expected
    assert bert.extract().identical(adapter)
    assert all(parameter.grad is None for parameter in bert.trainable())


def test_training_after_evaluation(bert: ResidentModel):
    """Nothing that evaluation leaves behind stops gradients."""
    bert.install(random_adapter(bert))
    data = examples(bert, 4)
    scores(bert, data, 4)
    ids = torch.tensor([data.tokens[0].tolist()])
    bert.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in bert.trainable())
