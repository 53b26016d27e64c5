"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path


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
