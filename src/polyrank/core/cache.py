"""What is kept between runs in a folder of the user's, to save time and never to change a result."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any

import platformdirs

from polyrank.core.files import read_whole, write_whole

log = logging.getLogger(__name__)

CACHE = "POLYRANK_CACHE"
"""Environment variable: the folder, in place of the user's own; empty for none."""


def folder(kind: str) -> Path | None:
    """Where things of a kind are kept; None where they are not."""
    named = os.environ.get(CACHE)
    if named is not None:
        return Path(named) / kind if named else None
    return platformdirs.user_cache_path("polyrank", appauthor=False) / kind


def digest(of: Any) -> str:  # Any: plain JSON values
    """A name for whatever depends on these values."""
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:24]


def write(path: Path, value: Any) -> None:  # Any: plain JSON values
    """Put a file in its place, whole or not at all; a folder that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(value, indent=1) + "\n", path.with_suffix(f".{uuid.uuid4().hex}"))
    except OSError as error:
        log.info("%s is not kept: %s", path.name, error)


def read(path: Path) -> Any:  # Any: plain JSON values
    """What a file holds; None where there is none that can be read."""
    try:
        return json.loads(read_whole(path))
    except (OSError, ValueError, RecursionError):
        return None
