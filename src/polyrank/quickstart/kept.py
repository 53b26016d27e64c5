"""Texts that were read from the standard library once, kept for this interpreter: reading them anew takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from polyrank.core import cache

Row = TypeVar("Row")


def kept(
    name: str, kind: type[Row], sources: Sequence[Path], readers: Sequence[str], make: Callable[[], Sequence[Row]]
) -> tuple[Row, ...]:
    """The rows of an embedded data set, as they were read before, or else read now.

    What was read before counts as long as nothing it depends on changed: the interpreter, the files' names, sizes and
    times, and our own code that reads them.

    Args:
        name: of the data set.
        kind: a dataclass of texts; what a row is.
        sources: files of the library.
        readers: files of the code that reads them.
        make: reads them.
    """
    where = cache.folder("texts")
    if where is None:
        return tuple(make())
    of = [
        name,
        sys.version,
        *([str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in [*sources, *map(Path, readers)]),
    ]
    path = where / f"{name}-{cache.digest(of)}.json"
    found = cache.read(path)
    if isinstance(found, dict) and found.get("digest") == cache.digest(found.get("rows")):
        return tuple(kind(**row) for row in found["rows"])
    made = tuple(make())
    rows: list[dict[str, Any]] = [asdict(row) for row in made]  # type: ignore[call-overload]
    cache.write(path, {"digest": cache.digest(rows), "rows": rows})
    return made
