"""Local files as tables: csv, tsv, json lines and parquet, and folders of plain texts.

The text formats are read with the standard library, because nothing may be guessed there: the text "NA" is no missing
value, the label "01" no number, U+2028 no end of a line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyrank.core.encoding import decode
from polyrank.core.errors import DataError
from polyrank.core.files import TABLES
from polyrank.data.sources.delimited import Quoting, read_delimited
from polyrank.data.sources.folders import holds_texts, read_folder
from polyrank.data.sources.tables import Table


def looks_like_path(name: str) -> bool:
    """Whether a source is meant as a file or a folder: it exists, ends in a known suffix, or is written like a path."""
    written = name.startswith((".", "/", "~")) or "\\" in name
    return written or name.lower().endswith(TABLES) or Path(name).is_file() or holds_texts(Path(name))


def read_file(name: str, *, quoting: Quoting = "auto", label: str = "label") -> Table:
    """The table in a csv, tsv, json lines (or one json list of objects) or parquet file, or in a folder of plain texts.

    Args:
        name: path of the file or folder; text files are UTF-8, or UTF-16 with a byte order mark; what separates the
            fields of a csv is found by `delimiter`.
        quoting: of csv and tsv, as `read_delimited` has it; ``auto`` is ``quotes`` for csv and ``none`` for tsv.
        label: the label column, by which rows are known where a quotation mark may have joined some.

    Raises:
        DataError: the file is missing, empty, of another type, not UTF-8, or breaks its format; names the line.
    """
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        return read_folder(name, path)
    if not path.is_file():
        raise DataError(f"no such file: {name} (looked in {path.absolute().parent}); give a path to an existing file")
    if suffix not in TABLES:
        raise DataError(f"{name} is a {suffix or 'nameless'} file; expected one of {', '.join(TABLES)}: convert it")
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty; expected columns and at least one example")
    if suffix == ".parquet":
        return _parquet(name, path)
    text = _decode(name, path)
    if suffix == ".csv":
        return read_delimited(name, text, delimiter(text), "quotes" if quoting == "auto" else quoting, label)
    if suffix == ".tsv":
        return read_delimited(name, text, "\t", "none" if quoting == "auto" else quoting, label)
    return _json(name, text)


def delimiter(text: str) -> str:
    """What separates the fields of a csv file: a comma, or where its first line has none, its semicolon or tab.

    Spreadsheets write semicolons where the comma is a decimal point.

    >>> delimiter("text;label"), delimiter("text,label"), delimiter('"text, whole";label'), delimiter("text")
    (';', ',', ';', ',')
    """
    lines = io.StringIO(text, newline="")
    first = next((line for line in lines if line.strip()), "")[:10_000]  # names; one that is no header may be endless
    return next((mark for mark in (",", ";", "\t") if len(next(csv.reader([first], delimiter=mark))) > 1), ",")


def _decode(name: str, path: Path) -> str:
    raw = path.read_bytes()
    try:
        return decode(raw)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: byte 0x{raw[error.start]:02x} is not {error.encoding.upper()}; save the file as "
            "UTF-8"
        ) from error


def _json(name: str, text: str) -> Table:
    if text.lstrip().startswith("["):
        records = list(enumerate(_parsed(text, name, 1, "mend this line"), start=1))
    else:
        # split("\n"), not splitlines(): a json string may contain U+2028 as it is. A file put together from several
        # has a byte order mark before each.
        lines = ((number, line.lstrip("\ufeff")) for number, line in enumerate(text.split("\n"), start=1))
        records = [
            (number, _parsed(line, name, number, "expected one object per line"))
            for number, line in lines
            if line.strip()
        ]
    for number, record in records:
        if not isinstance(record, Mapping):
            raise DataError(
                f"{name}, record {number}: a json {type(record).__name__}, expected an object with the columns as keys"
            )
    names = dict.fromkeys(key for _, record in records for key in record)
    return Table(name, {key: [record.get(key) for _, record in records] for key in names})


def _parsed(text: str, name: str, first: int, advice: str) -> Any:  # Any: JSON values
    """A JSON value whose text begins in the line ``first``."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        line = first + error.lineno - 1
        raise DataError(f"{name}, line {line}: broken json ({error.msg} at column {error.colno}); {advice}") from error
    except (ValueError, RecursionError) as error:  # a key twice, a number of thousands of digits, a thousand brackets
        raise DataError(f"{name}, line {first}: this json cannot be read ({error}); {advice}") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON values
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in an object")
    return found


class _ParquetColumns(Mapping[str, Sequence[object]]):
    """Columns that are turned into Python values when they are asked for: others need not be of a readable type."""

    def __init__(self, table: Any) -> None:  # Any: pyarrow has no types
        self._table = table

    def __getitem__(self, name: str) -> Sequence[object]:
        if name not in self._table.column_names:
            raise KeyError(name)
        values: list[object] = self._table.column(name).to_pylist()
        return values

    def __contains__(self, name: object) -> bool:  # the inherited one would read the values
        return name in self._table.column_names

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.column_names)

    def __len__(self) -> int:
        return len(self._table.column_names)


def _parquet(name: str, path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is not a readable parquet file ({error}); write it again") from error
    if len(set(table.column_names)) != len(table.column_names):
        raise DataError(f"{name} has a column twice: {', '.join(table.column_names)}; expected different names")
    return Table(name, _ParquetColumns(table), _declared(table.schema.metadata or {}))


def _declared(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Class names that `datasets` wrote beside the columns; what is not of its form declares nothing."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"].items()
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}
    classes = {
        column: feature.get("names")
        for column, feature in features
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
    return {
        column: tuple(names)
        for column, names in classes.items()
        if isinstance(names, list) and all(isinstance(each, str) for each in names) and len(set(names)) == len(names)
    }
