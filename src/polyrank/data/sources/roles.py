"""What the columns of a table are likely to be, by their names and by what kind of values they have.

Nothing here is certain, so whoever uses it says what was taken for what. A value itself is never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from polyrank.core.errors import DataError
from polyrank.data.sources.tables import Table

TEXTS = ("text", "texts", "sentence", "review", "content", "body", "document", "abstract", "note", "notes", "comment")
LABELS = (
    *("label", "labels", "class", "category", "target", "sentiment", "topic", "stars", "rating", "intent", "diagnosis"),
    *("emotion", "outcome", "tag"),
)
CLIENTS = (
    *("client", "hospital", "clinic", "site", "institution", "institute", "organisation", "organization", "company"),
    *("department", "branch", "bank", "school", "shop", "store", "user", "author", "writer", "speaker", "patient"),
    *("owner", "device", "node", "region", "country", "domain"),
)
"""Words in the names of columns, the likeliest first."""
MOST_LABELS = 100
"""A column of more different values is not taken for labels by its values alone."""
ROWS_OF_A_VALUE = 4
"""Rows that a value has on average, at least, where it is taken for a client or, by its values alone, for a label."""
DATE = re.compile(r"\d{1,4}([-./])\d{1,2}\1\d{1,4}(\D|$)")
"""How a day begins that is written in figures, in whatever order; its column is not taken for labels by its values."""
A_TEXT = 1.5
"""Words of a text on average, at least; of names and labels there are fewer."""


@dataclass(frozen=True)
class Column:
    """What a column's values are like.

    Args:
        name: its name.
        filled: rows in which it has a value.
        kind: ``text`` (strings), ``whole`` (whole numbers), ``other``, or ``unreadable``.
        different: how many different values there are; 0 where that cannot be said.
        words: of a string, on average; 0 for others.
        letters: the same in characters.
        dates: whether all strings begin with a day, month and year in figures.
    """

    name: str
    filled: int
    kind: str
    different: int = 0
    words: float = 0.0
    letters: float = 0.0
    dates: bool = False

    def called(self, names: Sequence[str]) -> int:
        """Where the first of some words that its name has stands among them; their number where it has none."""
        own = set(re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", self.name).lower()))
        return next((place for place, word in enumerate(names) if word in own), len(names))

    @property
    def about(self) -> str:
        """What its values are like, in words."""
        if self.kind == "other" and not self.filled:
            return "empty"
        if self.kind == "text" and self.words >= A_TEXT:
            return f"strings of {self.words:.0f} words, {self.different} different ones"
        kinds = {"text": "strings", "whole": "whole numbers", "other": "neither strings nor whole numbers"}
        more = f", {self.different} different ones" if self.different else ""
        return f"{kinds.get(self.kind, 'not readable')}{more}"

    @property
    def called_as_clients(self) -> bool:
        """Whether its name says that its values are who holds a row."""
        return self.called(CLIENTS) < len(CLIENTS)


@dataclass(frozen=True)
class Found:
    """A column that was taken for something.

    Args:
        column: what it is like.
        named: whether its name says so; else only its values do.
    """

    column: Column
    named: bool


@dataclass(frozen=True)
class Seen:
    """A table's columns.

    Args:
        rows: how many there are.
        columns: in their order.
    """

    rows: int
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(one.name for one in self.columns)

    def text(self, taken: Collection[str] = ()) -> Found | None:
        """The column of texts: by its name, or the one of the longest strings of several words."""
        able = [one for one in self._free(taken) if one.kind == "text" and one.filled > self.rows / 2]
        named = [one for one in able if one.called(TEXTS) < len(TEXTS)]
        if named:
            return Found(min(named, key=lambda one: (one.called(TEXTS), -one.letters)), named=True)
        long = [one for one in able if one.words >= A_TEXT and not one.called_as_clients]
        return Found(max(long, key=lambda one: one.letters), named=False) if long else None

    def label(self, taken: Collection[str] = ()) -> Found | None:
        """The column of labels: by its name, or that of the fewest different values, unless clients are called so.

        Where several columns are called as clients are, such as a site and a department, one of them may be labels.
        """
        able = [one for one in self._complete(taken) if 2 <= one.different < max(self.rows, 3)]
        named = [one for one in able if one.called(LABELS) < len(LABELS)]
        if named:
            return Found(min(named, key=lambda one: (one.called(LABELS), one.different)), named=True)
        most = min(MOST_LABELS, self.rows / ROWS_OF_A_VALUE)
        few = [one for one in able if one.different <= most and one.words < A_TEXT and not one.dates]
        client = self.client(taken)
        likely = [one for one in few if not one.called_as_clients] or [one for one in few if one is not client]
        return Found(min(likely, key=lambda one: one.different), named=False) if likely else None

    def client(self, taken: Collection[str] = ()) -> Column | None:
        """The column whose value says who holds a row; its name must say so, or others would train on these rows."""
        able = [one for one in self.may_be_clients(taken) if one.called_as_clients]
        return min(able, key=lambda one: one.called(CLIENTS)) if able else None

    def may_be_clients(self, taken: Collection[str] = ()) -> list[Column]:
        """Columns whose values might be clients, if whoever has the data says so."""
        return [one for one in self._complete(taken) if 2 <= one.different <= self.rows / ROWS_OF_A_VALUE]

    def _complete(self, taken: Collection[str]) -> list[Column]:
        return [one for one in self._free(taken) if one.kind in ("text", "whole") and one.filled == self.rows]

    def _free(self, taken: Collection[str]) -> list[Column]:
        return [one for one in self.columns if one.name not in taken]


def look(table: Table) -> Seen:
    """Every column of a table; one that cannot be read is only named."""
    read: dict[str, Sequence[object] | None] = {}
    for name in table.columns:
        try:
            read[name] = table.column(name, "data.text")
        except DataError:  # of a type that has no Python value; it may be of no use here
            read[name] = None
    rows = max((len(values) for values in read.values() if values is not None), default=0)
    return Seen(rows, tuple(_column(name, values) for name, values in read.items()))


def _column(name: str, values: Sequence[object] | None) -> Column:
    if values is None:
        return Column(name, 0, "unreadable")
    there = [value for value in values if value is not None and value != ""]
    strings = [value for value in there if isinstance(value, str)]
    if there and len(strings) == len(there):
        words = sum(len(value.split()) for value in strings) / len(strings)
        letters = sum(map(len, strings)) / len(strings)
        different = set(strings)
        return Column(name, len(there), "text", len(different), words, letters, all(map(DATE.match, different)))
    if there and all(isinstance(value, int) for value in there):
        return Column(name, len(there), "whole", len(set(map(str, there))))
    return Column(name, len(there), "other")
