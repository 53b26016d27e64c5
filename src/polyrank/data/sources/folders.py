"""A folder of plain texts as a table: a file is a text."""

from __future__ import annotations

from pathlib import Path

from polyrank.core.encoding import decode
from polyrank.core.errors import DataError
from polyrank.data.sources.tables import Table

SUFFIX = ".txt"
COLUMNS = ("text", "folder", "file")
"""What a file holds, the folder that it is in, "" for the whole one itself, and its path in the whole folder."""


TABLES = {".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow"}
"""What a folder of texts has not: a README beside a table is no text to learn from."""


def holds_texts(path: Path) -> bool:
    """Whether a path is a folder that has plain texts in it, at whatever depth, and no table."""
    return path.is_dir() and any(path.rglob(f"*{SUFFIX}")) and _table(path) is None


def _table(path: Path) -> Path | None:
    return next((file for file in path.rglob("*") if file.suffix.lower() in TABLES), None)


def read_folder(name: str, path: Path) -> Table:
    """The texts of a folder and of the folders in it, in the order of their paths, with `COLUMNS`.

    Raises:
        DataError: there is no plain text in it, or a table; or a text has nothing but spaces, or is not UTF-8; names
            the file.
    """
    if (table := _table(path)) is not None:
        raise DataError(f"{name} is a folder, and {table} in it a table; name that file, or the folder of the texts")
    files = sorted(path.rglob(f"*{SUFFIX}"), key=lambda file: file.relative_to(path).parts)
    texts = {file: _text(file) for file in files if file.is_file()}
    if not texts:
        raise DataError(
            f"{name} is a folder without {SUFFIX} files; expected a file (csv, tsv, jsonl, json, parquet), or a folder "
            f"of {SUFFIX} files, each of which is a text"
        )
    if empty := [file for file, text in texts.items() if not text.strip()]:
        raise DataError(f"{name}: {len(empty)} of {len(texts)} files are empty, such as {empty[0]}; remove them")
    names = [file.relative_to(path) for file in texts]
    folders = [one.parent.as_posix() if len(one.parts) > 1 else "" for one in names]
    return Table(
        name, dict(zip(COLUMNS, (list(texts.values()), folders, [one.as_posix() for one in names]), strict=True))
    )


def _text(file: Path) -> str:
    try:
        return decode(file.read_bytes())
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start} is not {error.encoding.upper()}; save it as UTF-8") from error
