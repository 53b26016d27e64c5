"""What the noise of a private run is drawn from: in its folder until the run is finished, and no longer."""

from __future__ import annotations

import os
from pathlib import Path

from polyrank.runs.folder import disk_errors

NAME = "secret"


def keep(folder: Path, secret: str) -> None:
    """Keep it in a run folder, for nobody but the owner to read; one that is empty is none.

    Raises:
        RunFolderError: it cannot be written.
    """
    if not secret:
        return
    path = folder / NAME
    with disk_errors(path):
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())


def read(folder: Path) -> str:
    """That of a run that is not finished; empty where there is none.

    Raises:
        RunFolderError: it cannot be read.
    """
    path = folder / NAME
    with disk_errors(path):
        return path.read_text(encoding="ascii") if path.is_file() else ""


def forget(folder: Path) -> None:
    """Delete it: nobody can take the noise away from here on.

    Raises:
        RunFolderError: it cannot be deleted.
    """
    with disk_errors(folder / NAME):
        (folder / NAME).unlink(missing_ok=True)
