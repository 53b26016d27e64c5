"""Files of delimited fields, and where a quotation mark would join lines that are rows of their own."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from polyrank.core.errors import DataError
from polyrank.data.sources.tables import Table

log = logging.getLogger(__name__)

Quoting = Literal["auto", "quotes", "none", "multiline"]

_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class _Row:
    """Fields, and the lines of the file that they were read from."""

    fields: list[str]
    first: int
    lines: Sequence[str]


def read_delimited(name: str, text: str, delimiter: str, quoting: Quoting, label: str) -> Table:
    """The table in a text whose first line names the columns.

    Args:
        name: of the file, for messages.
        text: of the file.
        delimiter: between fields.
        quoting: ``none``: a line is a row, and quotation marks are text. ``quotes``: a field may be quoted, with a mark
            inside it written twice, and may then hold delimiters and line breaks; where its lines read like rows of
            their own, it is refused, since a mark that was never meant to quote does the same. ``multiline``: as
            quotes, and nothing is refused for that.
        label: name of the label column.

    Raises:
        DataError: a row has more or fewer fields than the first line, a quoted field does not end, or one looks like
            several rows; names the line.
    """
    quotes = quoting != "none"
    header, *rows = _rows(name, text, delimiter, quotes=quotes) or [_Row([], 1, [])]
    for row in rows:
        if len(row.fields) != len(header.fields):
            mend = "quote a text that contains the delimiter or a line break" if quotes else (
                "quotation marks are text here: if they are to hold a text together, set data.quoting = \"quotes\""
            )  # fmt: skip
            raise DataError(
                f"{name}, line {row.first}: {len(row.fields)} fields, expected {len(header.fields)} as in the first "
                f"line; {mend}"
            )
        if _bare(row.fields) == _bare(header.fields):
            raise DataError(
                f"{name}, line {row.first}: the first line once more, as where files were put together; remove it"
            )
    if len(set(header.fields)) != len(header.fields):
        raise DataError(
            f"{name}: the first line names a column twice: {', '.join(header.fields)}; expected different names"
        )
    if quoting == "quotes":
        _refuse_joined(name, delimiter, header, rows, label)
    if not quotes:
        _warn_of_quotes(name, header, rows)
    columns = zip(*(row.fields for row in rows), strict=True) if rows else [() for _ in header.fields]
    return Table(name, dict(zip(header.fields, columns, strict=True)))


def _bare(fields: Sequence[str]) -> list[str]:
    """Fields without what does not show: spaces around them, and the byte order mark of a file that was put behind."""
    return [field.strip().lstrip("\ufeff") for field in fields]


def _rows(name: str, text: str, delimiter: str, *, quotes: bool) -> list[_Row]:
    """All rows that are not blank."""
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(
        lines, delimiter=delimiter, strict=True, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    )
    limit = csv.field_size_limit(_NO_LIMIT)  # the default refuses texts over 131072 characters; global, so put back
    rows: list[_Row] = []
    before = 0
    try:
        for fields in reader:
            if fields:
                rows.append(_Row(fields, before + 1, lines[before : reader.line_num]))
            before = reader.line_num
    except csv.Error as error:
        where = f"line {before + 1}"
        if reader.line_num > before + 1:
            where += f": the quoted text that begins there runs to line {reader.line_num}"
        raise DataError(
            f"{name}, {where}: {error}; write a quotation mark inside a quoted text twice, and quote a text that "
            'starts with one, or set data.quoting = "none" where quotation marks are text'
        ) from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _refuse_joined(name: str, delimiter: str, header: _Row, rows: Sequence[_Row], label: str) -> None:
    """Refuse a quoted field that reads like rows that a stray quotation mark joined.

    A line reads like a row if it has as many fields as the first line and a label. The field is refused if all of its
    lines do, or if two of them have labels that are known, from this row (which explains one) and from rows of a line.

    Raises:
        DataError: there is one; names its lines.
    """
    at = header.fields.index(label) if label in header.fields else -1
    known = {row.fields[at] for row in rows if len(row.lines) == 1}
    for row in [header, *rows]:
        if len(row.lines) == 1:
            continue
        labels = [_label(line, delimiter, len(header.fields), at) for line in row.lines]
        alike = [i for i, found in enumerate(labels) if found in known | {row.fields[at]}]
        if all(labels) or len(alike) > 1 or row is header:
            shown = max(alike[:2], default=0)
            raise DataError(
                f"{name}, line {row.first}: a quotation mark opens a text that ends in line "
                f"{row.first + len(row.lines) - 1}, and its lines look like rows of their own, such as line "
                f"{row.first + shown}: {row.lines[shown].strip()[:60]!r}. If the mark is text, quote the text and "
                'write the mark twice, or set data.quoting = "none"; if it is one text, set data.quoting = "multiline"'
            )


def _label(line: str, delimiter: str, fields: int, at: int) -> str | None:
    """The label that a line has if it is a row, else None."""
    mark = re.escape(delimiter)
    # what is quoted within the line is one field, whatever it holds
    plain = re.sub(rf'(?<![^{mark}])"((?:[^"]|"")*)"(?![^{mark}\r\n])', lambda m: m[1].replace(delimiter, " "), line)
    found = plain.rstrip("\r\n").split(delimiter)
    return found[at] or None if len(found) == fields else None


def _warn_of_quotes(name: str, header: _Row, rows: Sequence[_Row]) -> None:
    """Say so where fields look quoted by a program, which are read with their quotation marks."""
    quoted = [row for row in rows if any(_as_quoted(field) for field in row.fields)]
    if quoted or any(len(field) > 1 and field[0] == field[-1] == '"' for field in header.fields):
        first = (quoted or [header])[0].first
        log.warning(
            "%s, line %d: fields look quoted, and are read with their quotation marks; if the marks are no text, set "
            'data.quoting = "quotes"',
            name,
            first,
        )


def _as_quoted(field: str) -> bool:
    """Whether a field is between quotation marks and has each mark inside it twice, one at least."""
    inside: Collection[str] = field[1:-1]
    return (
        len(field) > 3 and field[0] == field[-1] == '"' and '""' in inside and '"' not in field[1:-1].replace('""', "")
    )
