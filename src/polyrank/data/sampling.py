"""Seeded draws that respect the labels, if any: stratified samples and the server's balanced validation set."""

from __future__ import annotations

import numpy as np

from polyrank.core.errors import ConfigError, DataError
from polyrank.data.dataset import TextDataset


def strata(dataset: TextDataset) -> np.ndarray:
    """The labels, int64, shape (n,); examples without any are all of one kind."""
    return np.zeros(len(dataset), dtype=np.int64) if dataset.labels is None else dataset.labels


def stratified(labels: np.ndarray, size: int, generator: np.random.Generator, *, keep: int = 0) -> np.ndarray:
    """Indices, sorted, of `size` examples whose labels have the shares of the whole, to less than one example.

    Largest remainders decide the rounding. If `size` is at least the number of labels, every label is drawn at least
    once; `keep` examples of every label are never drawn, which takes precedence, and if it leaves fewer than `size`,
    those are all.
    """
    present, counts = np.unique(labels, return_counts=True)
    high = np.maximum(counts - keep, 0)
    size = min(size, int(high.sum()))
    low = np.minimum(1, high) if size >= len(present) else np.zeros_like(high)
    quotas = _apportion(counts * (size / max(len(labels), 1)), size, low, high)
    drawn = [
        generator.choice(np.flatnonzero(labels == label), size=quota, replace=False)
        for label, quota in zip(present, quotas, strict=True)
    ]
    return np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))


def hold_out(dataset: TextDataset, per_label: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a balanced validation set, and of the rest; both sorted. Without labels it is `per_label` examples.

    The seed paper's server scores clients on such a set (Byun and Lee 2024, https://arxiv.org/abs/2406.17477). It is
    taken from the training data before they are partitioned, so no client trains on it.

    Raises:
        ConfigError: `per_label` is below 1.
        DataError: a label has fewer than `per_label` examples, or nothing is left to train on.
    """
    if per_label < 1:
        raise ConfigError(f"a validation set of {per_label} examples per label; expected 1 or more")
    kinds, names = strata(dataset), dataset.label_names
    counts = np.bincount(kinds, minlength=len(names))
    if short := [f"{names[i]!r} has {counts[i]}" for i in np.flatnonzero(counts < per_label) if names]:
        raise DataError(
            f"the validation set needs {per_label} training examples of every label, but {', '.join(short)}: "
            "ask for fewer examples per label, or add data"
        )
    if not names and len(dataset) <= per_label:
        raise DataError(
            f"a validation set of {per_label} examples takes all {len(dataset)} training examples and leaves the "
            "clients nothing: ask for fewer (ranks.validation_per_label)"
        )
    if len(dataset) == per_label * len(counts):
        raise DataError(
            f"a validation set of {per_label} examples for each of {len(counts)} labels takes all {len(dataset)} "
            "training examples and leaves the clients nothing: ask for fewer examples per label"
        )
    drawn = [
        generator.choice(np.flatnonzero(kinds == label), size=per_label, replace=False) for label in range(len(counts))
    ]
    validation = np.sort(np.concatenate(drawn))
    return validation, np.setdiff1d(np.arange(len(dataset)), validation)


def _apportion(exact: np.ndarray, size: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whole numbers near `exact`, within `low` and `high`, whose sum is `size` (low.sum() <= size <= high.sum())."""
    quotas: np.ndarray = np.clip(np.floor(exact).astype(np.int64), low, high)
    while (missing := size - int(quotas.sum())) != 0:
        step = 1 if missing > 0 else -1
        room = quotas < high if step > 0 else quotas > low
        quotas[np.argmax(np.where(room, step * (exact - quotas), -np.inf))] += step
    return quotas
