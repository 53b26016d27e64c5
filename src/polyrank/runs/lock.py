"""One process at a time writes a run folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from polyrank.core.errors import RunFolderError
from polyrank.runs.folder import LOCK, disk_errors


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes, and this one a second time, from writing a folder, which is made where there is none.

    The system takes the lock back from a process that ended, however it ended.

    Raises:
        RunFolderError: another one has it; or the folder cannot be made or written.
    """
    lock = FileLock(folder / LOCK)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(
                f"{folder} is being written by another run; wait until it has ended or end it, then --resume, or "
                "choose another folder with --out"
            ) from None
    try:
        yield
    finally:
        lock.release()
