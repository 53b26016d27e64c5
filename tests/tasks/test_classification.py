from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from polyrank.data.dataset import TextDataset
from polyrank.tasks.classification import Examples, accuracy_and_macro_f1, collate, loss, tokenize
from tests import models

CPU = torch.device("cpu")

CAT, THE, SUN = (models.WORDS.index(word) for word in ("cat", "the", "sun"))
PAD, CLS, SEP = 0, 2, 3


def load_tokenizer(folder: Path, *, decoder: bool = False, limit: int | None = None):
    models.save_tokenizer(folder, decoder=decoder, limit=limit)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def dataset(*texts: str) -> TextDataset:
    return TextDataset(texts, np.arange(len(texts)) % 2, ("a", "b"))


def ids(examples: Examples) -> list[list[int]]:
    return [tokens.tolist() for tokens in examples.tokens]


def test_texts_become_tokens(tmp_path: Path):
    """With special tokens, in the order of the texts."""
    found = tokenize(dataset("The cat", "sun", ""), load_tokenizer(tmp_path), 10)
    assert ids(found) == [[CLS, THE, CAT, SEP], [CLS, SUN, SEP], [CLS, SEP]]
    assert found.labels.tolist() == [0, 1, 0]
    assert found.lengths.tolist() == [4, 3, 2]
    assert found.lengths.dtype == np.int64
    assert (found.pad_id, len(found)) == (PAD, 3)


@pytest.mark.parametrize(("allowed", "limit", "length"), [(5, None, 5), (5, 8, 5), (8, 5, 5), (30, None, 14)])
def test_the_lower_limit_holds(tmp_path: Path, allowed: int, limit: int | None, length: int):
    """Twelve words with two special tokens are 14; what is cut keeps the end token."""
    (tokens,) = ids(tokenize(dataset("the " * 12), load_tokenizer(tmp_path, limit=limit), allowed))
    assert tokens == [CLS, *[THE] * (length - 2), SEP]


def test_a_text_without_tokens_is_one_padding_token(tmp_path: Path):
    """A decoder's tokenizer adds nothing; no model can read a batch of no tokens, nor a row that is all masked."""
    found = tokenize(dataset("", "the cat"), load_tokenizer(tmp_path, decoder=True), 10)
    assert ids(found) == [[SEP], [THE, CAT]]
    assert collate(found, [0], CPU).attention_mask.tolist() == [[1]]


def some(*tokens: list[int], pad: int = 9) -> Examples:
    return Examples(tuple(np.array(ids, dtype=np.int64) for ids in tokens), np.arange(len(tokens)), pad)


def test_collate_pads_on_the_right_to_the_longest_chosen():
    examples = some([1, 2, 3, 4], [5], [6, 7])
    batch = collate(examples, [2, 1], CPU)
    assert batch.input_ids.tolist() == [[6, 7], [5, 9]]
    assert batch.attention_mask.tolist() == [[1, 1], [1, 0]]
    assert batch.labels.tolist() == [2, 1]
    assert {tensor.dtype for tensor in (batch.input_ids, batch.attention_mask, batch.labels)} == {torch.int64}
    assert collate(examples, np.array([0]), CPU).input_ids.shape == (1, 4)


def test_a_real_token_that_is_the_padding_token_is_seen():
    """The mask goes by length, not by id."""
    assert collate(some([1, 9, 9], [1]), [0, 1], CPU).attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_subset():
    found = some([1], [2, 2], [3]).subset([2, 1])
    assert ids(found) == [[3], [2, 2]]
    assert found.labels.tolist() == [2, 1]
    assert len(found.subset(np.array([], dtype=np.int64))) == 0


def test_loss_by_hand():
    """Probabilities 1/2 of the right class and 1/4 of it: (ln 2 + ln 4) / 2 = 1.5 ln 2."""
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.75, 0.25]]))
    labels = torch.tensor([0, 1])
    assert float(loss(logits, labels)) == pytest.approx(1.5 * np.log(2))
    assert float(loss(logits, labels, reduction="sum")) == pytest.approx(3 * np.log(2))
    assert loss(logits.to(torch.bfloat16), labels).dtype == torch.float32


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
    found = accuracy_and_macro_f1(np.array(predicted), np.array(labels), 3)
    assert found == pytest.approx((accuracy, macro_f1))
