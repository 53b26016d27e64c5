"""Local files as tables: csv, tsv, json lines and parquet.

The text formats are read with the standard library, because nothing may be guessed there: the text "NA" is no missing
value, the label "01" no number, U+2028 no end of a line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

from polyrank.data.tables import Table
from polyrank.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")

_NO_LIMIT = 2**31 - 1


def looks_like_path(name: str) -> bool:
    """Whether a source is meant as a file: it exists, ends in a known suffix, or is written like a path."""
    written = name.startswith((".", "/", "~")) or "\\" in name
    return written or name.lower().endswith(SUFFIXES) or Path(name).is_file()


def read_file(name: str) -> Table:
    """The table in a csv, tsv, json lines (or one json list of objects) or parquet file; text files are UTF-8.

    Raises:
        DataError: the file is missing, empty, of another type, not UTF-8, or breaks its format; names the line.
    """
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        raise DataError(f"{name} is a folder; expected a file ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise DataError(f"no such file: {name} (looked in {path.absolute().parent}); give a path to an existing file")
    if suffix not in SUFFIXES:
        raise DataError(f"{name} is a {suffix or 'nameless'} file; expected one of {', '.join(SUFFIXES)}: convert it")
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty; expected columns and at least one example")
    if suffix == ".parquet":
        return _parquet(name, path)
    text = _decode(name, path)
    if suffix in {".csv", ".tsv"}:
        return _delimited(name, text, "," if suffix == ".csv" else "\t")
    return _json(name, text)


def _decode(name: str, path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def _delimited(name: str, text: str, delimiter: str) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(_NO_LIMIT)  # the default refuses texts over 131072 characters; global, so put back
    try:
        header = next(reader, [])
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(
                    f"{name}, line {reader.line_num}: {len(row)} fields, expected {len(header)} as in the first line; "
                    "quote a text that contains the delimiter or a line break"
                )
            if row:
                rows.append(row)
    except csv.Error as error:
        raise DataError(
            f"{name}, line {reader.line_num}: {error}; write a quotation mark inside a quoted text twice, and quote a "
            "text that starts with one"
        ) from error
    finally:
        csv.field_size_limit(limit)
    if len(set(header)) != len(header):
        raise DataError(f"{name}: the first line names a column twice: {', '.join(header)}; expected different names")
    columns = zip(*rows, strict=True) if rows else [() for _ in header]
    return Table(name, dict(zip(header, columns, strict=True)))


def _json(name: str, text: str) -> Table:
    try:
        if text.lstrip().startswith("["):
            records = list(enumerate(json.loads(text), start=1))
        else:
            # split("\n"), not splitlines(): a json string may contain U+2028 as it is
            lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
            records = [(number, _json_line(name, number, line)) for number, line in lines]
    except json.JSONDecodeError as error:
        raise DataError(f"{name}, line {error.lineno}: broken json ({error.msg}); mend this line") from error
    for number, record in records:
        if not isinstance(record, Mapping):
            raise DataError(
                f"{name}, record {number}: a json {type(record).__name__}, expected an object with the columns as keys"
            )
    names = dict.fromkeys(key for _, record in records for key in record)
    return Table(name, {key: [record.get(key) for _, record in records] for key in names})


def _json_line(name: str, number: int, line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{name}, line {number}: broken json ({error.msg} at column {error.colno}); expected one object per line"
        ) from error


def _parquet(name: str, path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is not a readable parquet file ({error}); write it again") from error
    columns = {column: table.column(column).to_pylist() for column in table.column_names}
    return Table(name, columns, _declared(table.schema.metadata or {}))


def _declared(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Class names that `datasets` wrote beside the columns."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return {
        column: tuple(feature["names"])
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
