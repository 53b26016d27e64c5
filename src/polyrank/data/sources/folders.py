"""A folder of plain texts as a table: a file is a text."""

from __future__ import annotations

from pathlib import Path

from polyrank.core.encoding import decode
from polyrank.core.errors import DataError
from polyrank.core.files import TABLES
from polyrank.data.sources.tables import Table

SUFFIX = ".txt"
COLUMNS = ("text", "folder", "file")
"""What a file holds, the folder that it is in, "" for the whole one itself, and its path in the whole folder."""

NO_TEXTS = {*TABLES, ".arrow"}
"""What a folder of texts has not: a README beside a table is no text to learn from."""


def holds_texts(path: Path) -> bool:
    """Whether a path is a folder that has plain texts in it, at whatever depth, and no table."""
    texts, tables = _look(path) if path.is_dir() else ([], [])
    return bool(texts) and not tables


def _look(path: Path) -> tuple[list[Path], list[Path]]:
    """The plain texts of a folder in the order of their paths, and the tables."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    tables = [file for file in files if file.suffix.lower() in NO_TEXTS]
    return [file for file in files if file.name.endswith(SUFFIX)], tables


def read_folder(name: str, path: Path) -> Table:
    """The texts of a folder and of the folders in it, in the order of their paths, with `COLUMNS`.

    Raises:
        DataError: there is no plain text in it, or a table; or a text has nothing but spaces, or is not UTF-8; names
            the file.
    """
    files, tables = _look(path)
    if tables:
        raise DataError(
            f"{name} is a folder, and {tables[0]} in it a table; name that file, or the folder of the texts"
        )
    if not files:
        raise DataError(
            f"{name} is a folder without {SUFFIX} files; expected a file ({', '.join(TABLES).replace('.', '')}), or a "
            f"folder of {SUFFIX} files, each of which is a text"
        )
    texts = {file: _text(file) for file in files}
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
