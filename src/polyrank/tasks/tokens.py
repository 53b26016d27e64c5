"""Texts as tokens, and rows of tokens as batches: what tasks have in common."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from polyrank.core.errors import ConfigError, DataError, PolyRankError
from polyrank.data.dataset import TextDataset
from polyrank.tasks.task import Batch, Examples, Rows

if TYPE_CHECKING:  # as in `polyrank.tasks.task`
    import torch

log = logging.getLogger(__name__)


def tokenize(
    dataset: TextDataset,
    tokenizer: Any,  # Any: tokenizers have no typed base
    max_tokens: int,
    *,
    end: int | None = None,
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Every text's tokens, cut to ``max_tokens`` (or the tokenizer's own limit, where that is smaller); which were.

    A text without any token, such as an empty one where the tokenizer adds nothing, becomes one padding token. A text
    that spells a special token of the tokenizer, such as ``[SEP]``, has it, as everywhere in transformers; only the end
    token is read as letters where the head looks for it.

    Args:
        dataset: the texts.
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
    ids, cut = _encoded(dataset, tokenizer, limit)
    if end is not None:
        _spell_out(dataset, tokenizer, limit, end, ids)
    return tuple(np.asarray(own or [tokenizer.pad_token_id], dtype=np.int64) for own in ids), cut


@contextmanager
def encoding(dataset: TextDataset, index: int) -> Iterator[None]:
    """Say which row a tokenizer cannot read; tokenizers raise plain Exceptions, and do not say at which text.

    Raises:
        DataError: it raised anything but an error of ours.
    """
    try:
        yield
    except PolyRankError:
        raise
    except Exception as error:
        raise DataError(
            f"{dataset.place(index)}: the tokenizer cannot read {dataset.texts[index][:40]!r}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}; mend or remove this row"
        ) from error


def _encoded(dataset: TextDataset, tokenizer: Any, limit: int) -> tuple[list[list[int]], np.ndarray]:  # Any: as above
    """Ids of every text, and the indices of the texts that were cut."""

    def encode(texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        encoded = tokenizer(list(texts), truncation=True, max_length=limit, return_attention_mask=False)
        ids = list(encoded["input_ids"])
        if encoded.encodings is not None:
            return ids, np.flatnonzero([bool(one.overflowing) for one in encoded.encodings])
        full = [i for i, own in enumerate(ids) if len(own) == limit]  # it does not say what it cut
        whole = (
            tokenizer([texts[i] for i in full], return_attention_mask=False, verbose=False)["input_ids"] if full else []
        )
        return ids, np.array([i for i, own in zip(full, whole, strict=True) if len(own) > limit], dtype=np.int64)

    try:
        return encode(dataset.texts) if dataset.texts else ([], np.empty(0, dtype=np.int64))
    except Exception:
        for i, text in enumerate(dataset.texts):
            with encoding(dataset, i):
                encode([text])
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


def padded(parts: Sequence[tuple[Examples, Rows]], device: torch.device, *, trained: int | None = None) -> Batch:
    """The chosen examples of several sets as one batch, one set after another, padded on the right.

    Every set gets the same number of rows; where fewer are chosen, rows to fill up follow with targets of zero. They
    are copies of a real row: attention has something to attend to, and a head that looks for an end token finds it.

    Args:
        parts: sets, and which of their examples.
        device: where the batch is wanted.
        trained: where targets say which tokens are trained, the target of all that are not; those that are have their
            own ids for targets.
    """
    import torch

    rows = max(len(indices) for _, indices in parts)
    chosen = [[examples.tokens[i] for i in indices] for examples, indices in parts]
    longest = max(len(ids) for own in chosen for ids in own)
    filler = next(ids for own in chosen for ids in own)
    like, count = parts[0][0], len(parts) * rows
    input_ids = np.full((count, longest), like.pad_id, dtype=np.int64)
    mask = np.zeros((count, longest), dtype=np.int64)
    if trained is None:
        targets = np.zeros((count, *like.targets.shape[1:]), dtype=like.targets.dtype)
    else:
        targets = np.full((count, longest), trained, dtype=np.int64)
    for k, ((examples, indices), own) in enumerate(zip(parts, chosen, strict=True)):
        for row, ids in enumerate(own, start=k * rows):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        for row in range(k * rows + len(own), (k + 1) * rows):
            input_ids[row, : len(filler)] = filler
            mask[row, : len(filler)] = 1
        if trained is None:
            targets[k * rows : k * rows + len(own)] = examples.targets[np.asarray(indices)]
            continue
        for row, (ids, i) in enumerate(zip(own, indices, strict=True), start=k * rows):
            targets[row, : len(ids)] = np.where(examples.targets[i], ids, trained)
    tensors = [torch.from_numpy(array) for array in (input_ids, mask, targets)]
    if device.type == "cuda":
        tensors = [tensor.pin_memory() for tensor in tensors]
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))
