"""Files that are read whole, and those that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""How files end that are read as tables of data."""
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_whole(path: Path) -> bytes:
    """What a file holds, which somebody else may have made.

    A pipe in its place would be waited for, and a device such as ``/dev/zero`` has no end.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    with os.fdopen(os.open(path, _OPEN), "rb") as file:
        kind = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, and no file", str(path))
        return file.read()


def write_whole(path: Path, text: str, scratch: Path) -> None:
    """Put a text in a file's place, in one step.

    Args:
        path: the file.
        text: what it holds then.
        scratch: where it is written first, in the same folder; gone afterwards.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
