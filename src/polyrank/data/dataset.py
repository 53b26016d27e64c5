"""Texts in memory, with labels where there are some: the one form in which data travels through PolyRank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from polyrank.core.errors import DataError


@dataclass(frozen=True, eq=False)
class TextDataset:
    """Texts, each with one label, or none of them.

    `labels` is int64 of shape (n,), an index into `label_names`, or None: what the label says, a class that is learned
    or only of which kind a text is, is the task's matter. `columns` holds extra columns that were asked for,
    such as the one that says which client an example belongs to, as strings and in the order of the texts. `where`
    names the source and `rows` each text's row there, counted from 1, int64 of shape (n,), for messages. `turns` says
    that the texts are conversations, as `polyrank.data.turns` writes them; `form` and `read` say of which format the
    rows were and which columns the texts are of.

    Raises:
        DataError: the columns differ in length, or a label is not an index into `label_names`.
    """

    texts: tuple[str, ...]
    labels: np.ndarray | None
    label_names: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    where: str = "the data"
    rows: np.ndarray | None = None
    turns: bool = False
    form: str = ""
    read: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {} if self.labels is None else {"labels": len(self.labels)}
        lengths |= {} if self.rows is None else {"rows": len(self.rows)}
        lengths |= {name: len(values) for name, values in self.columns.items()}
        for name, length in lengths.items():
            if length != len(self.texts):
                raise DataError(f"{len(self.texts)} texts, but {length} values in {name!r}: expected one for each text")
        if self.labels is None:
            return
        if self.labels.dtype != np.int64:
            raise DataError(f"labels are {self.labels.dtype}, expected int64: convert them with astype")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.label_names):
            raise DataError(
                f"labels go from {self.labels.min()} to {self.labels.max()}, "
                f"expected 0 to {len(self.label_names) - 1}, an index into label_names"
            )

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, indices: Sequence[int] | np.ndarray) -> TextDataset:
        """The examples at `indices`, in that order; the label names stay, also those that no example has any more."""
        at = np.asarray(indices, dtype=np.int64)
        return TextDataset(
            texts=tuple(self.texts[i] for i in at),
            labels=None if self.labels is None else self.labels[at],
            label_names=self.label_names,
            columns={name: tuple(values[i] for i in at) for name, values in self.columns.items()},
            where=self.where,
            rows=None if self.rows is None else self.rows[at],
            turns=self.turns,
            form=self.form,
            read=self.read,
        )

    def row(self, index: int) -> int:
        """The row of the source in which the text at an index stands, counted from 1."""
        return index + 1 if self.rows is None else int(self.rows[index])

    def place(self, index: int) -> str:
        """Where the text at an index stands, for a message."""
        return f"{self.where}, row {self.row(index)}"

    def kinds(self, who: str) -> np.ndarray:
        """The labels, for who cannot do without.

        Raises:
            DataError: there are none.
        """
        if self.labels is None:
            raise DataError(
                f"the {who} needs a label for every text, and {self.where} is read without labels: name their column "
                "with data.label, or take what needs none, such as data.partition=iid"
            )
        return self.labels

    def column(self, name: str) -> tuple[str, ...]:
        """An extra column, for who cannot do without.

        Raises:
            DataError: there is none of this name, as in test data that lack it.
        """
        if name not in self.columns:
            raise DataError(f"{self.where} has no column {name!r}, which the task reads; expected it beside the texts")
        return self.columns[name]

    def label_counts(self) -> np.ndarray:
        """Number of examples of every label, int64, shape (labels,).

        Raises:
            DataError: as `kinds`.
        """
        return np.bincount(self.kinds("number of texts per label"), minlength=len(self.label_names))


@dataclass(frozen=True, eq=False)
class Split:
    """What is trained on and what is tested on, with the same label names.

    `digests` says what the sources held, before any part was cut off or drawn (see `polyrank.data.digest`).
    `read` says how many rows were read from each source, before a test share or a limit cut them.

    Raises:
        DataError: the label names differ.
    """

    train: TextDataset
    test: TextDataset
    digests: Mapping[str, str] = field(default_factory=dict)
    read: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.train.label_names != self.test.label_names:
            raise DataError(
                f"train has the labels {self.train.label_names} and test {self.test.label_names}; expected the same"
            )
