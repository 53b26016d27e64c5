"""What a task is: texts to examples, examples to batches, a loss per example, and what is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from polyrank.data.dataset import TextDataset
from polyrank.data.turns import Turn
from polyrank.tasks.metric import Metric

if TYPE_CHECKING:  # reports ask a task for its metrics, and torch takes a second
    import torch
    from torch import Tensor, nn

LOSS = "loss"
"""The metric that every task has: the loss per unit, which training makes small and clients are scored by."""

Rows = Sequence[int] | np.ndarray
"""Indices of examples."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Tokenised texts, and what is to be learned of each.

    Args:
        tokens: one int64 array of token ids per text, special tokens included, cut to the longest allowed.
        targets: ``(n, ...)``: what is learned of each, in the task's own form, such as the index of its class.
        pad_id: the id that fills a batch up.
        kinds: ``(n,)``, int64: of which kind each is, where the data have labels; what partitions over labels count.
    """

    tokens: tuple[np.ndarray, ...]
    targets: np.ndarray
    pad_id: int
    kinds: np.ndarray | None = None

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

    def kind_counts(self, kinds: int) -> list[int]:
        """How many are of each of so many kinds; nothing where the data have none."""
        if self.kinds is None:
            return []
        counts: list[int] = np.bincount(self.kinds, minlength=kinds).tolist()
        return counts

    def subset(self, indices: Rows) -> Examples:
        """The examples at ``indices``, in that order."""
        at = np.asarray(indices, dtype=np.int64)
        kinds = None if self.kinds is None else self.kinds[at]
        return Examples(tuple(self.tokens[i] for i in at), self.targets[at], self.pad_id, kinds)


@dataclass(frozen=True, eq=False)
class Encoded:
    """A data set as a task reads it, and what became of each of its rows.

    Args:
        examples: of the rows that were kept, in their order.
        kept: the rows' indices in the data set, ``(len(examples),)``, ascending.
        cut: indices of those of them that lost a part of their text to the limit.
        left_out: reason -> indices of the rows that are no examples.
        noted: what is likely not meant -> indices of the rows that are kept, of which it is so.
    """

    examples: Examples
    kept: np.ndarray
    cut: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    left_out: Mapping[str, np.ndarray] = field(default_factory=dict)
    noted: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's input: ids and mask ``(n, longest)``, targets ``(n, ...)`` as in `Examples`."""

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums and counts of what was measured, which add up; what they come to is the task's to say (`Task.measured`).

    Args:
        sums: name -> a number, or an array of a fixed shape.
    """

    sums: Mapping[str, Any]  # Any: numbers and numpy's arrays, both of which have a +

    def __add__(self, other: Tally) -> Tally:
        return Tally({name: value + other.sums[name] for name, value in self.sums.items()})


@dataclass(frozen=True)
class Task(ABC):
    """What is learned; a task's fields are its options, ``task.options`` of the configuration.

    Nothing here depends on one data set: how many classes there are, say, is seen from the model's answers. Engines
    divide the sum of a step's losses by its units, whatever parts it is computed in and whoever shares a pass.
    """

    metrics: ClassVar[tuple[Metric, ...]]
    """What is measured, `LOSS` among it; by the first one rounds and runs are compared."""
    labelled: ClassVar[bool] = False
    """Whether every example must have a label; else it has one where the data do."""
    classifies: ClassVar[bool] = False
    """Whether a text has one class, of which `probabilities` are known; labels are the classes' names."""
    fixed: ClassVar[bool] = False
    """Whether `losses` does the same operations for all batches of one shape, so that a GPU can replay them
    (``training.cuda_graphs``)."""
    writes: ClassVar[bool] = False
    """Whether the model writes: rows may be prompts and answers, and are read as ``data.format`` says; what is measured
    is measured of each kind of text too, and of the model as it is before the first round."""
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # Any: values of the configuration
    """Section -> key -> value that fits the task better than the configuration's own default, where nothing is set."""

    @property
    def primary(self) -> Metric:
        """By which rounds and runs are compared."""
        return self.metrics[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that are read beside texts and labels."""
        return ()

    @abstractmethod
    def outputs(self, dataset: TextDataset) -> tuple[str, ...]:
        """Names of the numbers that the model's head gives for a text, in their order; nothing for one that writes."""

    def resolved(self, dataset: TextDataset, tokenizer: Any) -> Self:  # noqa: ARG002  # Any: as in `encode`
        """The task with its options as data and model have them, where one of them is ``auto``.

        Args:
            dataset: what is trained on.
            tokenizer: the model's.

        Raises:
            ConfigError: an option does not fit the tokenizer.
        """
        return self

    @abstractmethod
    def encode(self, dataset: TextDataset, tokenizer: Any, max_tokens: int, *, end: int | None = None) -> Encoded:
        """The texts as examples.

        Args:
            dataset: with `columns`, and labels where it has some.
            tokenizer: of transformers; Any: tokenizers have no typed base.
            max_tokens: the most tokens of a text.
            end: the token that the model's head looks for, and needs equally often in all texts, if there is one.

        Raises:
            DataError: a row cannot be read; it is named.
            ConfigError: ``max_tokens`` leaves no place for a text.
        """

    def units(self, examples: Examples, indices: Rows) -> int:  # noqa: ARG002  # of what other tasks count
        """What the sum of these examples' losses is divided by: their number."""
        return len(indices)

    @abstractmethod
    def collate(self, parts: Sequence[tuple[Examples, Rows]], device: torch.device) -> Batch:
        """The chosen examples of several sets as one batch, each set with the same number of rows.

        Where fewer are chosen, rows to fill up follow, whose losses count nothing. `polyrank.tasks.tokens.padded` does
        this for targets of one shape.
        """

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of each row, summed over its units, ``(rows,)``, with a gradient; float32 or wider.

        Raises:
            ModelError: the model's answers have another shape than the task needs.
        """

    @abstractmethod
    def scores(self, model: nn.Module, batch: Batch) -> Tally:
        """What is measured of these rows, all of which count."""

    def opening(self, tokenizer: Any, turns: Sequence[Turn]) -> list[int]:  # Any: as in `encode`
        """Tokens that a model is given to answer somebody, as in training; of a task that writes.

        Raises:
            DataError: it cannot be written in the way of the training.
        """
        raise NotImplementedError

    def frame(self, tokenizer: Any) -> Mapping[str, str]:  # noqa: ARG002  # Any: as in `encode`
        """How texts are written around their own words, for people: what it is called -> how it is."""
        return {}

    def probabilities(self, model: nn.Module, batch: Batch) -> Tensor:
        """Each row's probability of each class, ``(rows, classes)``, float32 or wider; of a task that classifies."""
        raise NotImplementedError

    def asked(self, examples: Examples, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that a model is given to answer an example, and those of the right answer; of a task that writes."""
        raise NotImplementedError

    def stops(self, tokenizer: Any, model: nn.Module) -> frozenset[int]:
        """Tokens that end an answer; of a task that writes."""
        raise NotImplementedError

    def chat_template(self, tokenizer: Any) -> str | None:  # noqa: ARG002  # of a task that writes
        """How prompts were written in training, as a chat template; None for the tokenizer's own."""
        return None

    @abstractmethod
    def measured(self, tally: Tally) -> dict[str, float]:
        """The metrics that sums and counts come to: name -> value."""

    @abstractmethod
    def constant(self, examples: Examples, *, learned: Sequence[Examples] = (), words: int = 0) -> dict[str, float]:
        """The primary metric of the best answer that looks at no text, and of other metrics where there is one.

        Args:
            examples: that are measured.
            learned: what clients train on, as far as it is here.
            words: how many tokens the model knows.
        """

    def baseline(self, of: str) -> str:  # noqa: ARG002  # of what other tasks are made of
        """What `constant` measures, in words; ``of``: "training" or "test", whose answers it looks at."""
        return "best constant answer"
