"""Sequence classification: texts to tokens once, batches padded as far as they need, loss and metrics."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyrank.core.errors import ConfigError, DataError
from polyrank.data.dataset import TextDataset

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Examples:
    """Tokenised texts and their labels.

    Args:
        tokens: one int64 array of token ids per text, special tokens included, cut to the longest allowed.
        labels: ``(n,)``, int64.
        pad_id: the id that fills a batch up.
    """

    tokens: tuple[np.ndarray, ...]
    labels: np.ndarray
    pad_id: int

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per text, ``(n,)``, int64."""
        return np.fromiter((len(t) for t in self.tokens), dtype=np.int64, count=len(self.tokens))

    @property
    def largest(self) -> int:
        """The largest token of all texts."""
        return max((int(own.max()) for own in self.tokens), default=0)

    def label_counts(self, classes: int) -> list[int]:
        """How many have each of so many labels."""
        counts: list[int] = np.bincount(self.labels, minlength=classes).tolist()
        return counts

    def subset(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples at ``indices``, in that order."""
        return Examples(tuple(self.tokens[i] for i in indices), self.labels[np.asarray(indices)], self.pad_id)


@dataclass(frozen=True, eq=False)
class Elsewhere(Examples):
    """Examples that somebody else holds: how many of each label, and none of them here.

    Args:
        counts: by label.
    """

    counts: tuple[int, ...]

    @classmethod
    def of(cls, counts: Sequence[int]) -> Elsewhere:
        """So many of each label; nothing grows with their number."""
        return cls((), np.empty(0, dtype=np.int64), 0, tuple(counts))

    def __len__(self) -> int:
        return sum(self.counts)

    def label_counts(self, classes: int) -> list[int]:
        return [*self.counts, *[0] * (classes - len(self.counts))]


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's input: ids and mask ``(n, longest)``, labels ``(n,)``."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def tokenize(
    dataset: TextDataset,
    tokenizer: Any,  # Any: tokenizers have no typed base
    max_tokens: int,
    *,
    end: int | None = None,
) -> Examples:
    """Tokenise every text once, cut to ``max_tokens`` (or the tokenizer's own limit, where that is smaller).

    A text without any token, such as an empty one where the tokenizer adds nothing, becomes one padding token. A text
    that spells a special token of the tokenizer, such as ``[SEP]``, has it, as everywhere in transformers; only the end
    token is read as letters where the head looks for it.

    Args:
        dataset: texts and labels.
        tokenizer: of transformers.
        max_tokens: the most tokens of a text.
        end: the token that the model's head looks for, and needs equally often in all texts, if there is one.

    Raises:
        DataError: the tokenizer cannot read a text, or one holds ``end`` however it is written; names its row.
        ConfigError: within ``max_tokens`` there is no place for any of a text's own tokens.
    """
    limit = min(max_tokens, tokenizer.model_max_length)
    added = tokenizer.num_special_tokens_to_add()
    if limit <= added:
        raise ConfigError(
            f"data.max_tokens is {max_tokens}, and {added} tokens of each text are the tokenizer's own; expected more"
        )
    ids = _encoded(dataset, tokenizer, limit)
    if end is not None:
        _spell_out(dataset, tokenizer, limit, end, ids)
    tokens = tuple(np.asarray(own or [tokenizer.pad_token_id], dtype=np.int64) for own in ids)
    return Examples(tokens, dataset.labels, tokenizer.pad_token_id)


def _encoded(dataset: TextDataset, tokenizer: Any, limit: int) -> list[list[int]]:  # Any: as above
    def encode(texts: Sequence[str]) -> list[list[int]]:
        encoded = tokenizer(list(texts), truncation=True, max_length=limit, return_attention_mask=False)
        return list(encoded["input_ids"])

    try:
        return encode(dataset.texts)
    except Exception:  # tokenizers raise plain Exceptions, and do not say at which text
        for i, text in enumerate(dataset.texts):
            try:
                encode([text])
            except Exception as error:
                raise DataError(
                    f"{dataset.place(i)}: the tokenizer cannot read {text[:40]!r}: {type(error).__name__}: "
                    f"{' '.join(str(error).split())[:200]}; mend or remove this row"
                ) from error
        raise


def _spell_out(
    dataset: TextDataset, tokenizer: Any, limit: int, end: int, ids: list[list[int]]
) -> None:  # Any: as above
    """Read the end token as letters where a text spells it, in place."""
    expected = tokenizer("")["input_ids"].count(end)
    wrong = [i for i, own in enumerate(ids) if own.count(end) != expected]
    name = tokenizer.convert_ids_to_tokens(end)
    for i in wrong:
        text = dataset.texts[i].replace(name, f"{name[0]} {name[1:]}")
        ids[i] = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
        if ids[i].count(end) != expected:
            raise DataError(
                f"{dataset.place(i)}: {dataset.texts[i][:40]!r} has the token {name!r} {ids[i].count(end)} times, "
                f"expected {expected}, where the model's head looks for it; mend or remove this row"
            )
    if wrong:
        log.warning(
            "%d text(s) of %s spell %s, which is read as letters, since the model's head looks for that token; the "
            "first: row %d",
            len(wrong),
            dataset.where,
            name,
            dataset.row(wrong[0]),
        )


def collate(examples: Examples, indices: Sequence[int] | np.ndarray, device: torch.device) -> Batch:
    """Pad the chosen examples on the right to the longest of them."""
    return collate_together([(examples, indices)], device)


def collate_together(parts: Sequence[tuple[Examples, Sequence[int] | np.ndarray]], device: torch.device) -> Batch:
    """The chosen examples of several sets as one batch, one set after another, padded on the right.

    Every set gets the same number of rows; where fewer are chosen, rows to fill up follow with the label 0. They are
    copies of a real row: attention has something to attend to, and a head that looks for an end token finds it.
    """
    rows = max(len(indices) for _, indices in parts)
    chosen = [[examples.tokens[i] for i in indices] for examples, indices in parts]
    longest = max(len(ids) for own in chosen for ids in own)
    filler = next(ids for own in chosen for ids in own)
    input_ids = np.full((len(parts) * rows, longest), parts[0][0].pad_id, dtype=np.int64)
    mask = np.zeros((len(parts) * rows, longest), dtype=np.int64)
    labels = np.zeros(len(parts) * rows, dtype=np.int64)
    for k, ((examples, indices), own) in enumerate(zip(parts, chosen, strict=True)):
        for row, ids in enumerate(own, start=k * rows):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        for row in range(k * rows + len(own), (k + 1) * rows):
            input_ids[row, : len(filler)] = filler
            mask[row, : len(filler)] = 1
        labels[k * rows : k * rows + len(own)] = examples.labels[np.asarray(indices)]
    tensors = [torch.from_numpy(array) for array in (input_ids, mask, labels)]
    if device.type == "cuda":
        tensors = [tensor.pin_memory() for tensor in tensors]
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross entropy in float32, or in float64 where the logits are."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(wide, labels, reduction=reduction)


def accuracy_and_macro_f1(predicted: np.ndarray, labels: np.ndarray, classes: int) -> tuple[float, float]:
    """Share of right answers, and the mean over the classes of F1; a class that never occurs nor is predicted counts 0.

    The definition of F1 at 0 / 0 follows scikit-learn's ``zero_division=0``, over all classes of the task.
    """
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    right = np.diag(confusion)
    sizes = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = np.divide(2 * right, sizes, out=np.zeros(classes), where=sizes > 0)
    return float(right.sum() / len(labels)), float(f1.mean())
