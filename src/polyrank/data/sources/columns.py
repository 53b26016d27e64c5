"""Which columns of a table are read, and what its rows are read as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polyrank.core.errors import DataError
from polyrank.data.sources.delimited import Quoting
from polyrank.data.sources.formats import Writing, written
from polyrank.data.sources.tables import Examples, Table, examples, listed, whole_texts


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
        return " and ".join([*listed(self.text), self.label])

    def examples(self, table: Table, kinds: str | None, extra: Sequence[str]) -> Examples:
        """The table's rows, with labels from the column ``kinds``, if any."""
        if self.writing is None:
            self._check(table)
            rows = examples(table, whole_texts(table, self.text), kinds, extra)
            return replace(rows, form="text", read=listed(self.text))
        found = written(table, self.writing)
        rows = examples(table, found.texts, kinds, extra, turns=found.turns)
        return replace(rows, form=found.form, read=found.read)

    def _check(self, table: Table) -> None:
        """Say so where the rows are of the other kind of model."""
        missing = set(listed(self.text)) - set(table.columns)
        form = Writing().found(table.columns) if missing else None
        if form not in (None, "text"):
            raise DataError(
                f"{table.where} has no column {min(missing)!r} to classify, but what a model that writes learns "
                f"(format {form}): leave task.name out, or say task.name = 'causal-lm'; or name the column to classify "
                "with data.text"
            )
