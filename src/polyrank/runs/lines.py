"""The lines of metrics.jsonl, one per round in their order; what was changed by hand is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polyrank.core.errors import CodecError, RunFolderError
from polyrank.core.files import read_whole
from polyrank.runs import shapes


def read(path: Path, first: int | None) -> list[dict[str, Any]]:  # Any: JSON values
    """All lines; a last one that was cut off by a crash is left out, and no file holds none.

    Args:
        path: of the file.
        first: the round of its first line; None: 0 or 1, as it says.

    Raises:
        RunFolderError: a line is damaged, missing, or there twice: figures over the rounds would be wrong.
    """
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    texts = read_whole(path).decode("utf-8", "replace").split("\n")
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            if not any(texts[number:]):
                break
            line = None
        if first is None:
            first = 0 if isinstance(line, dict) and line.get("round") == 0 else 1
        expected = first + number - 1
        if not isinstance(line, dict) or line.get("round") != expected:
            raise RunFolderError(
                f"{path}, line {number}: expected what was measured in round {expected}, and found {text[:40]!r}: the "
                "file was changed; put back what was there, or replace the run: polyrank run --overwrite"
            )
        try:
            shapes.check_line(line)
        except CodecError as error:
            raise RunFolderError(
                f"{path}, line {number}: {error}: the file was changed; put back what was there"
            ) from None
        lines.append(line)
    return lines
