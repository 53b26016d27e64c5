from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from polyrank.core.errors import DataError, ModelError
from polyrank.data.dataset import TextDataset
from polyrank.tasks.classification import Classification
from polyrank.tasks.task import LOSS, Batch, Examples
from tests import models

TASK = Classification()


class Given(nn.Module):
    """A model that answers with these logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, **_: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


class Answers(Given):
    """It answers with these of three classes, and is sure of them."""

    def __init__(self, *classes: int) -> None:
        super().__init__(10.0 * nn.functional.one_hot(torch.tensor(classes), 3))


def batch(labels: list[int]) -> Batch:
    ids = torch.ones(len(labels), 1, dtype=torch.int64)
    return Batch(ids, ids, torch.tensor(labels))


def measured(model: nn.Module, labels: list[int]) -> dict[str, float]:
    return TASK.measured(TASK.scores(model, batch(labels)))


def test_losses_by_hand():
    """Probabilities 1/2 of the right class and 1/4 of it: ln 2 and ln 4, in float32 whatever the logits are."""
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.75, 0.25]]))
    losses = TASK.losses(Given(logits), batch([0, 1]))
    assert losses.tolist() == pytest.approx([math.log(2), math.log(4)])
    assert measured(Given(logits), [0, 1])[LOSS] == pytest.approx(1.5 * math.log(2))
    assert TASK.losses(Given(logits.to(torch.bfloat16)), batch([0, 1])).dtype == torch.float32
    assert TASK.losses(Given(logits.double()), batch([0, 1])).dtype == torch.float64


@pytest.mark.parametrize("shape", [(2, 3, 5), (2,), (1, 3)])
def test_a_model_that_gives_no_logit_per_text_and_class_is_refused(shape: tuple[int, ...]):
    """As one that gives them for every token."""
    with pytest.raises(ModelError, match=rf"its logits are {list(shape)}".replace("[", r"\[")):
        TASK.losses(Given(torch.zeros(shape)), batch([0, 1]))


def test_sums_of_parts_are_the_sum_of_the_whole():
    """F1 of a class is no mean over parts: only what is counted adds up."""
    answers, labels = [0, 0, 1, 2, 2, 1, 0], [0, 1, 1, 2, 0, 1, 2]
    whole = measured(Answers(*answers), labels)
    one, two = (TASK.scores(Answers(*answers[part]), batch(labels[part])) for part in (slice(3), slice(3, None)))
    assert TASK.measured(one + two) == pytest.approx(whole)
    assert (TASK.measured(one)["macro_f1"] + TASK.measured(two)["macro_f1"]) / 2 != pytest.approx(whole["macro_f1"])


def test_the_best_constant_answer_is_the_most_frequent_class():
    """Two of five texts are of class 2."""
    examples = Examples((np.array([1]),) * 5, np.array([2, 0, 1, 2, 3]), 0)
    assert TASK.constant(examples) == {"accuracy": 0.4}


def test_every_text_is_an_example_and_its_class_its_kind(checkpoint: models.Checkpoints):
    model = models.resident(checkpoint("bert"))
    data = models.toy(7)
    found = TASK.encode(data, model.base.tokenizer, 30)
    assert found.kept.tolist() == list(range(7))
    assert data.labels is not None
    assert found.examples.targets.tolist() == data.labels.tolist() == found.examples.kinds.tolist()  # type: ignore[union-attr]
    assert TASK.outputs(data) == data.label_names
    assert (TASK.units(found.examples, [3, 1]), found.cut.tolist(), found.left_out) == (2, [], {})
    with pytest.raises(
        DataError, match=r"task classification needs a label for every text, and x\.csv is read without"
    ):
        TASK.encode(TextDataset(("a",), None, (), where="x.csv"), model.base.tokenizer, 30)


@pytest.mark.parametrize(
    ("predicted", "labels", "accuracy", "macro_f1"),
    [
        ([0, 1, 2], [0, 1, 2], 1, 1),
        ([1, 2, 0], [0, 1, 2], 0, 0),
        # class 0: 2 right, 3 predicted, 2 true: 4/5; class 1: 1, 1, 2: 2/3; class 2: 1, 2, 2: 1/2
        ([0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 2, 0], 4 / 6, (2 * 2 / (3 + 3) + 2 * 1 / (1 + 2) + 2 * 1 / (2 + 1)) / 3),
        # class 2 neither occurs nor is predicted: it counts 0
        ([0, 1], [0, 1], 1, 2 / 3),
        # class 2 is predicted and does not occur: 0; class 0: 2 * 1 / (1 + 1) = 1; class 1: 2 * 1 / (1 + 2)
        ([0, 1, 2], [0, 1, 1], 2 / 3, (1 + 2 / 3 + 0) / 3),
        # class 1 occurs and is never predicted: 0; class 0: 2 * 2 / (4 + 2)
        ([0, 0, 0, 0], [0, 0, 1, 1], 1 / 2, (2 / 3 + 0 + 0) / 3),
    ],
    ids=["all right", "all wrong", "mixed", "absent", "never true", "never predicted"],
)
def test_macro_f1_by_hand(predicted: list[int], labels: list[int], accuracy: float, macro_f1: float):
    """F1 of a class is 2 right / (predicted + true); the mean is over all three classes."""
    found = measured(Answers(*predicted), labels)
    assert (found["accuracy"], found["macro_f1"]) == pytest.approx((accuracy, macro_f1))
