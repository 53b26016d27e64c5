"""Columns as they were read, and the checks that turn them into texts and labels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from polyrank.core.errors import DataError, LabelError, did_you_mean
from polyrank.data.dataset import TextDataset

_INTEGER = re.compile(r"0|-?[1-9][0-9]*")  # "01" is not one: it must not become the label 1
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSEEN = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u2060\0"))
_SHOWN = 5


@dataclass(frozen=True)
class Table:
    """Columns of equal length; `where` names the source in messages.

    `declared` holds, for columns of class indices (the `ClassLabel` feature of `datasets`), the names of the classes.
    """

    where: str
    columns: Mapping[str, Sequence[object]]
    declared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def column(self, name: str, setting: str) -> Sequence[object]:
        """The values of one column.

        Raises:
            DataError: there is no such column; names those that there are, and the `setting` to change. Or its values
                cannot be read.
        """
        if name in self.columns:
            try:
                return list(self.columns[name])
            except Exception as error:  # whatever pyarrow or datasets raise for values that are broken
                said = " ".join(str(error).split())[:200]
                raise DataError(
                    f"{self.where}: the column {name!r} cannot be read: {type(error).__name__}: {said}; write the "
                    "file again"
                ) from error
        found = ", ".join(repr(column[:40]) for column in self.columns)
        near = did_you_mean(name, self.columns)
        hint = f"; {near}" if near.startswith("did") else ""
        raise DataError(
            f"{self.where} has no column {name!r}; columns found: {found}{hint} "
            f"(set {setting} to the column to use; the first line of a csv or tsv file must name the columns)"
        )


@dataclass(frozen=True)
class Examples:
    """Texts and labels as strings, checked, before labels become numbers; None: there are no labels."""

    where: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] | None
    columns: Mapping[str, tuple[str, ...]]
    declared: tuple[str, ...] | None
    turns: bool = False
    form: str = ""
    read: tuple[str, ...] = ()

    def label_names(self, least: int = 2) -> tuple[str, ...]:
        """The declared classes in their order, or else the labels seen: sorted as numbers if all are whole numbers.

        No names where there are no labels.

        Raises:
            DataError: fewer than `least` labels occur.
        """
        if self.labels is None:
            return ()
        seen = set(self.labels)
        if len(seen) < least:
            raise DataError(
                f"{self.where} has only the label {self.labels[0]!r} in all {len(self.labels)} rows; expected two "
                "labels or more: check that data.label names the right column"
            )
        if self.declared is not None:
            return self.declared
        return tuple(sorted(seen, key=int) if all(map(_INTEGER.fullmatch, seen)) else sorted(seen))

    def encode(self, names: tuple[str, ...]) -> TextDataset:
        """The data set with labels, where there are some, as indices into `names`.

        Raises:
            DataError: a label is not among the names.
        """
        if self.labels is None:
            return self._dataset(None, ())
        index = {name: i for i, name in enumerate(names)}
        unknown = [label for label in self.labels if label not in index]
        if unknown:
            raise LabelError(
                f"{len(unknown)} row(s) of {self.where} have labels that are none of the classes: "
                f"{_some(sorted(set(unknown)))}; classes: {_some(names)}. The classes are those of the training data, "
                "or data.labels: remove these rows, or name all classes there",
                known=len(index.keys() & set(self.labels)),
                unknown=len(set(unknown)),
            )
        return self._dataset(np.array([index[label] for label in self.labels], dtype=np.int64), names)

    def _dataset(self, labels: np.ndarray | None, names: tuple[str, ...]) -> TextDataset:
        rows = np.arange(1, len(self.texts) + 1, dtype=np.int64)
        return TextDataset(
            self.texts, labels, names, self.columns, self.where, rows, turns=self.turns, form=self.form, read=self.read
        )


def examples(
    table: Table, texts: tuple[str, ...], label: str | None, extra_columns: Sequence[str], *, turns: bool = False
) -> Examples:
    """A table's texts, as they were read, with its labels (none without a column of theirs) and extra columns.

    Raises:
        DataError: a column is missing, a label is null, empty or neither a string nor a whole number, an extra column
            has a null, a string holds half of a surrogate pair. Rows count from 1, without the header.
    """
    raw_labels = None if label is None else table.column(label, "data.label")
    extras = {name: table.column(name, "the client column") for name in extra_columns}
    return Examples(
        where=table.where,
        texts=texts,
        labels=None if label is None or raw_labels is None else _labels(table, label, raw_labels),
        columns={name: _strings(table.where, name, values) for name, values in extras.items()},
        declared=None if label is None else table.declared.get(label),
        turns=turns,
    )


def listed(names: str | Sequence[str]) -> tuple[str, ...]:
    """Columns that were named by one name or several.

    >>> listed("text"), listed(["title", "body"])
    (('text',), ('title', 'body'))
    """
    return (names,) if isinstance(names, str) else tuple(names)


def whole_texts(table: Table, text: str | Sequence[str]) -> tuple[str, ...]:
    """The texts of a column, or of several joined by a space, empty ones left out.

    Raises:
        DataError: a column is missing, the table has no rows, a text is empty or not a string, or holds half of a
            surrogate pair.
    """
    parts = [table.column(name, "data.text") for name in listed(text)]
    if not parts:
        raise DataError("no text column was named; expected one or more names in data.text")
    if not parts[0]:
        raise DataError(f"{table.where} has columns but no rows; expected at least one example")
    return _texts(table.where, parts, text)


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that are most likely one, each group in its order.

    They differ only in spaces, quotation marks or signs that do not show, in case, in the form of Unicode, or in how
    a number is written.

    >>> alike(["neg", "Pos", "pos ", "1", "1.0"])
    [('Pos', 'pos '), ('1', '1.0')]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_gist(name), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _gist(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name).casefold().translate(_UNSEEN)
    bare = " ".join(plain.split()).strip("\"' ")
    try:
        return str(float(bare))
    except ValueError:
        return bare or name


def _texts(where: str, parts: Sequence[Sequence[object]], names: str | Sequence[str]) -> tuple[str, ...]:
    shown = " + ".join(map(repr, listed(names)))
    for part in parts:
        wrong = [i for i, value in enumerate(part) if not (value is None or isinstance(value, str))]
        refuse(wrong, where, f"a text in {shown} that is not a string but {_kind(part, wrong)}", "name a text column")
    joined = [
        " ".join(value for value in row if isinstance(value, str) and value.strip()) for row in zip(*parts, strict=True)
    ]
    refuse((i for i, value in enumerate(joined) if not value), where, f"an empty text in {shown}", "remove these rows")
    return whole(where, f"a text in {shown}", joined)


def _labels(table: Table, name: str, values: Sequence[object]) -> tuple[str, ...]:
    classes = table.declared.get(name)
    # -1 is how data sets on the Hub mark the rows of a test split whose labels are kept secret.
    missing = [i for i, v in enumerate(values) if _is_null(v) or v == "" or (classes is not None and v == -1)]
    advice = "remove these rows, or use a split that has labels, such as data.test=#validation"
    refuse(missing, table.where, f"no label in {name!r}", advice)
    wrong = [i for i, value in enumerate(values) if not isinstance(value, (str, int))]
    found = f"a label in {name!r} that is {_kind(values, wrong)}"
    refuse(wrong, table.where, found, "labels are strings or whole numbers: convert them")
    if classes is None:
        return whole(table.where, f"a label in {name!r}", map(str, values))
    outside = [i for i, value in enumerate(values) if not (isinstance(value, int) and 0 <= value < len(classes))]
    refuse(outside, table.where, f"a label outside the {len(classes)} declared classes in {name!r}", "mend the file")
    return tuple(classes[value] for value in values if isinstance(value, int))


def _strings(where: str, name: str, values: Sequence[object]) -> tuple[str, ...]:
    missing = (i for i, value in enumerate(values) if _is_null(value) or value == "")
    refuse(missing, where, f"no value in {name!r}", "fill these rows or remove them")
    return whole(where, f"a value in {name!r}", map(str, values))


def whole(where: str, what: str, values: Iterable[str]) -> tuple[str, ...]:
    """The strings, of which none may hold half of a surrogate pair: that is no character, and has no UTF-8."""
    strings = tuple(values)
    halves = (i for i, value in enumerate(strings) if not value.isascii() and _SURROGATE.search(value))
    advice = "an emoji was cut in two, as by \\ud83d alone: mend or remove these rows"
    refuse(halves, where, f"{what} that holds half of a surrogate pair", advice)
    return strings


def _is_null(value: object) -> bool:
    return value is None or value != value  # noqa: PLR0124  # NaN, which pandas writes for a missing value


def _kind(values: Sequence[object], at: Sequence[int]) -> str:
    return f"{values[at[0]]!r:.60} ({type(values[at[0]]).__name__})" if at else ""


def refuse(rows: Iterable[int], where: str, what: str, advice: str) -> None:
    """Raise what is wrong with some rows, given by their indices, if there are any.

    Raises:
        DataError: the first of them are named, counted from 1.
    """
    numbers = [f"{i + 1}" for i in rows]
    if numbers:
        more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
        at = ", ".join(numbers[:_SHOWN]) + more
        raise DataError(
            f"{where}: {len(numbers)} row(s) with {what}, at row {at} (rows count from 1, header left out): {advice}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
