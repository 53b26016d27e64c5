"""What a parser does beside parsing: writes elsewhere, pickles, connections, commands, memory, time."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any


class ForbiddenError(BaseException):
    """A parser did what no parser may; nothing that handles errors of input handles it."""


class HungError(BaseException):
    """A parser took too long."""


NEVER = {
    **{"pickle.find_class": "loads a pickle", "os.system": "runs a command", "subprocess.Popen": "runs a command"},
    **{"socket.connect": "connects", "os.exec": "runs a program", "os.posix_spawn": "runs a program"},
    **{"code.__new__": "makes code"},
}
CHANGES = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.chmod": 1}
"""Events that change a folder, and how many of their first arguments are paths."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """Sees what Python tells of (`sys.addaudithook`), and forbids what a parser may not do. One for a process.

    Args:
        allowed: folders that may be written to.
    """

    def __init__(self, *allowed: Path) -> None:
        self.allowed = tuple(str(folder.resolve()) for folder in allowed)
        self.found: list[str] = []
        self._on = False
        sys.addaudithook(self._event)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Look, for the length of the block."""
        self.found, self._on = [], True
        try:
            yield
        finally:
            self._on = False
        if self.found:
            raise ForbiddenError(self.found[0])

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:  # Any: what Python tells
        if not self._on:
            return
        if event in NEVER:
            self._forbid(f"{NEVER[event]}: {arguments!r:.200}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES and isinstance(path, str | bytes | os.PathLike):
                self._check(path, event)
        elif event in CHANGES:
            for path in arguments[: CHANGES[event]]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._check(path, event)

    def _check(self, path: Any, event: str) -> None:  # Any: a path
        where = os.path.realpath(os.fsdecode(path))
        if not where.startswith(self.allowed) and where != os.devnull:
            self._forbid(f"{event} of {where!r:.200}")

    def _forbid(self, what: str) -> None:
        self.found.append(what)
        self._on = False
        raise ForbiddenError(what)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End the block when it takes longer, as far as Python can.

    Raises:
        HungError: it did.
    """

    def late(_number: int, _frame: FrameType | None) -> None:
        raise HungError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak() -> int:
    """Bytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit_memory(more: int) -> None:
    """Let this process have so many bytes of addresses beyond those that it has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    now = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
