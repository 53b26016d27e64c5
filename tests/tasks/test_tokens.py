from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Split, Whitespace
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerFast

from polyrank.core.errors import ConfigError, DataError
from polyrank.data.dataset import TextDataset
from polyrank.tasks.task import Batch, Examples
from polyrank.tasks.tokens import padded, tokenize
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


def read(texts: TextDataset, tokenizer, most: int, *, end: int | None = None) -> Examples:
    tokens, _ = tokenize(texts, tokenizer, most, end=end)
    assert texts.labels is not None
    return Examples(tokens, texts.labels, tokenizer.pad_token_id)


def collate(examples: Examples, indices: Sequence[int] | np.ndarray) -> Batch:
    return padded([(examples, indices)], CPU)


def test_texts_become_tokens(tmp_path: Path):
    """With special tokens, in the order of the texts."""
    found = read(dataset("The cat", "sun", ""), load_tokenizer(tmp_path), 10)
    assert ids(found) == [[CLS, THE, CAT, SEP], [CLS, SUN, SEP], [CLS, SEP]]
    assert found.targets.tolist() == [0, 1, 0]
    assert found.lengths.tolist() == [4, 3, 2]
    assert found.lengths.dtype == np.int64
    assert (found.pad_id, len(found)) == (PAD, 3)


@pytest.mark.parametrize(("allowed", "limit", "length"), [(5, None, 5), (5, 8, 5), (8, 5, 5), (30, None, 14)])
def test_the_lower_limit_holds(tmp_path: Path, allowed: int, limit: int | None, length: int):
    """Twelve words with two special tokens are 14; what is cut keeps the end token."""
    (tokens,) = ids(read(dataset("the " * 12), load_tokenizer(tmp_path, limit=limit), allowed))
    assert tokens == [CLS, *[THE] * (length - 2), SEP]


def test_a_text_without_tokens_is_one_padding_token(tmp_path: Path):
    """A decoder's tokenizer adds nothing; no model can read a batch of no tokens, nor a row that is all masked."""
    found = read(dataset("", "the cat"), load_tokenizer(tmp_path, decoder=True), 10)
    assert ids(found) == [[SEP], [THE, CAT]]
    assert collate(found, [0]).attention_mask.tolist() == [[1]]


SEP_NAME = "[SEP]"


def test_the_end_that_a_head_looks_for_is_read_as_letters(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Of each text one end remains, its own; brackets and letters are unknown words here."""
    models.save_tokenizer(tmp_path, decoder=False, ends=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows = np.array([3, 8])
    texts = TextDataset(("the cat", f"the {SEP_NAME} cat {SEP_NAME}"), np.array([0, 1]), ("a", "b"), {}, "x.csv", rows)
    plain, ends = ids(read(texts, tokenizer, 30, end=SEP))
    assert plain == [CLS, THE, CAT, SEP]
    assert (ends[:2], ends[-1], ends.count(SEP), ends.count(CAT)) == ([CLS, THE], SEP, 1, 1)
    assert "1 text(s) of x.csv spell [SEP], which is read as letters" in caplog.text
    assert "the first: row 8" in caplog.text
    # where no head looks for it, a text has it, as everywhere in transformers
    assert ids(read(texts, tokenizer, 30))[1] == [CLS, THE, SEP, CAT, SEP, SEP]


def test_an_end_that_cannot_be_told_from_letters_is_refused(tmp_path: Path):
    """A tokenizer that drops spaces puts the letters together again."""
    models.save_tokenizer(tmp_path, decoder=False, ends=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.backend_tokenizer.normalizer = Replace(" ", "")
    tokenizer.backend_tokenizer.pre_tokenizer = Split(SEP_NAME, "isolated")
    with pytest.raises(DataError, match=r"the data, row 1: .*\[SEP\].* has the token '\[SEP\]' 2 times, expected 1"):
        read(dataset(f"the {SEP_NAME} cat"), tokenizer, 30, end=SEP)


def test_a_text_that_the_tokenizer_cannot_read_is_named():
    """Without a token for the unknown, one unknown word ends the whole batch."""
    words = Tokenizer(WordLevel({"[PAD]": 0, "cat": 1}))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
    texts = TextDataset(("cat", "cat dog"), np.array([0, 1]), ("a", "b"), {}, "x.csv", np.array([3, 8]))
    with pytest.raises(DataError, match=r"x\.csv, row 8: the tokenizer cannot read 'cat dog': .*; mend or remove"):
        read(texts, tokenizer, 10)


def test_places_for_a_text_beside_the_tokenizers_own(tmp_path: Path):
    """[CLS] and [SEP] are two; with one place the tokenizer would not even cut."""
    tokenizer = load_tokenizer(tmp_path)
    for most in (1, 2):
        with pytest.raises(ConfigError, match=f"data.max_tokens is {most}, and 2 tokens of each text"):
            read(dataset("the cat"), tokenizer, most)
    assert ids(read(dataset("the cat"), tokenizer, 3)) == [[CLS, THE, SEP]]
    assert ids(read(dataset("the cat"), load_tokenizer(tmp_path, decoder=True), 1)) == [[THE]]


def test_rows_that_fill_up_are_real_ones():
    """The second set has one row fewer: a copy of the first of all follows, with the label 0, masked as that is."""
    one, two = some([1, 2], [3]), some([4, 5, 6])
    batch = padded([(one, [1, 0]), (two, [0])], CPU)
    assert batch.input_ids.tolist() == [[3, 9, 9], [1, 2, 9], [4, 5, 6], [3, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert batch.targets.tolist() == [1, 0, 0, 0]
    assert padded([(one, np.empty(0, np.int64)), (two, [0])], CPU).input_ids.tolist() == [
        [4, 5, 6],
        [4, 5, 6],
    ]


def some(*tokens: list[int], pad: int = 9) -> Examples:
    return Examples(tuple(np.array(ids, dtype=np.int64) for ids in tokens), np.arange(len(tokens)), pad)


def test_collate_pads_on_the_right_to_the_longest_chosen():
    examples = some([1, 2, 3, 4], [5], [6, 7])
    batch = collate(examples, [2, 1])
    assert batch.input_ids.tolist() == [[6, 7], [5, 9]]
    assert batch.attention_mask.tolist() == [[1, 1], [1, 0]]
    assert batch.targets.tolist() == [2, 1]
    assert {tensor.dtype for tensor in (batch.input_ids, batch.attention_mask, batch.targets)} == {torch.int64}
    assert collate(examples, np.array([0])).input_ids.shape == (1, 4)


def test_a_real_token_that_is_the_padding_token_is_seen():
    """The mask goes by length, not by id."""
    assert collate(some([1, 9, 9], [1]), [0, 1]).attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_subset():
    found = some([1], [2, 2], [3]).subset([2, 1])
    assert ids(found) == [[3], [2, 2]]
    assert found.targets.tolist() == [2, 1]
    assert len(found.subset(np.array([], dtype=np.int64))) == 0
    assert found.kinds is None


def test_which_texts_are_cut(tmp_path: Path):
    """With two special tokens the texts have 3, 4, 5 and 6 tokens: of five places one lacks; of four, two."""
    texts, tokenizer = dataset("the", "the " * 2, "the " * 3, "the " * 4), load_tokenizer(tmp_path)
    for one in (tokenizer, Silent(tokenizer)):
        cut = [tokenize(texts, one, most)[1].tolist() for most in (3, 4, 5, 6, 30)]
        assert cut == [[1, 2, 3], [2, 3], [3], [], []]


class Silent:
    """A tokenizer written in Python, which does not say what it cut."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, *texts: Any, **options: Any) -> BatchEncoding:
        return BatchEncoding(dict(self.inner(*texts, **options)))


def test_targets_of_any_shape_and_type_are_filled_up_with_zeros():
    examples = Examples((np.array([1]), np.array([2])), np.array([[0.5, 1.5], [2.5, 3.5]], dtype=np.float32), 9)
    batch = padded([(examples, [1, 0]), (examples, [0])], CPU)
    assert batch.targets.tolist() == [[2.5, 3.5], [0.5, 1.5], [0.5, 1.5], [0.0, 0.0]]
    assert batch.targets.dtype == torch.float32
