"""Each change of a file below a folder, counted, and something that happens at one of them.

Python tells of what opens, makes, renames and removes files (`sys.addaudithook`) before it does it; what such a hook
raises is raised in its place.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.mkdir": 1,
    "os.rename": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
}

Act = Callable[[str], None]
"""Takes what was about to happen."""


class FileEvents:
    """Counts, and acts at the event of a number, the first one being 0. It ends with its process: use it in a fork.

    Args:
        folder: whose files count.
        at: the event; None: only count.
        act: what happens then.
        lasting: whether it happens at all later ones, too, as where a disk is full.
    """

    def __init__(self, folder: Path, at: int | None, act: Act | None = None, *, lasting: bool = False) -> None:
        self.folder, self.at, self.act, self.lasting, self.count = str(folder.absolute()), at, act, lasting, 0
        self._acting = False
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:  # Any: what Python tells
        if self._acting or not (event == "open" or event in CHANGES):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
            return
        paths = arguments[: CHANGES.get(event, 1)]
        named = [os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike)]
        if not any(Path(name).absolute().is_relative_to(self.folder) for name in named):
            return
        number, self.count = self.count, self.count + 1
        if self.act is None or self.at is None or not (number == self.at or (self.lasting and number > self.at)):
            return
        self._acting = True
        try:
            self.act(f"{event} {os.path.relpath(named[-1], self.folder)}")
        finally:
            self._acting = False


def failing(code: int) -> Act:
    """Raise an error of the disk."""

    def act(_what: str) -> None:
        raise OSError(code, os.strerror(code))

    return act


ERRORS = {"full disk": errno.ENOSPC, "read-only file system": errno.EROFS, "permission denied": errno.EACCES}
