"""Which columns of a table are read, and what its rows are read as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polyrank.core.errors import DataError
from polyrank.data.sources.delimited import Quoting
from polyrank.data.sources.formats import Writing, written
from polyrank.data.sources.tables import Examples, Table, examples, whole_texts


@dataclass(frozen=True)
class Columns:
    """What of a table is read, and how: names of the columns, quoting of text files."""

    text: str | Sequence[str]
    label: str
    quoting: Quoting
    writing: Writing | None

    @property
    def shown(self) -> str:
        """The columns in a message."""
        if self.writing is not None:
            return "prompt and completion, messages, or text"
        return f"{self.text if isinstance(self.text, str) else ' and '.join(self.text)} and {self.label}"

    def examples(self, table: Table, kinds: str | None, extra: Sequence[str]) -> Examples:
        """The table's rows, with labels from the column ``kinds``, if any."""
        if self.writing is None:
            self._check(table)
            names = (self.text,) if isinstance(self.text, str) else tuple(self.text)
            return replace(examples(table, whole_texts(table, self.text), kinds, extra), form="text", read=names)
        found = written(table, self.writing)
        rows = examples(table, found.texts, kinds, extra, turns=found.turns)
        return replace(rows, form=found.form, read=found.read)

    def _check(self, table: Table) -> None:
        """Say so where the rows are of the other kind of model."""
        named = {self.text} if isinstance(self.text, str) else set(self.text)
        form = None if named <= set(table.columns) else Writing().found(table.columns)
        if form not in (None, "text"):
            raise DataError(
                f"{table.where} has no column {sorted(named - set(table.columns))[0]!r} to classify, but what a model "
                f"that writes learns (format {form}): leave task.name out, or say task.name = 'causal-lm'; or name the "
                "column to classify with data.text"
            )
