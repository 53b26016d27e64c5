"""What is watched: run folders, there or not yet, each read anew when one of its files changed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polyrank.core.errors import PolyRankError, RunFolderError
from polyrank.core.text import size
from polyrank.report.runs import Run, read
from polyrank.runs.folder import RunFolder, folders_in

FILES = ("config.toml", "run.json", "clients.json", "metrics.jsonl", "summary.json", "samples.json")
LARGEST = 2**28
"""Bytes of a file that is read: a page that is asked for every few seconds is no place for more."""
SHARE = 20
"""How many times as long as a search for runs took nobody searches again."""


@dataclass
class Watched:
    """A run folder.

    Attributes:
        path: of the folder; it need not be there.
        name: as a reader knows it.
        run: as it was read last; None before it has begun, and where it could never be read.
        fault: what is wrong with the folder now; empty if nothing is.
        begun: whether there is a run's configuration.
        changed: when a file changed last, in seconds since 1970.
    """

    path: Path
    name: str
    run: Run | None = None
    fault: str = ""
    begun: bool = False
    changed: float = 0.0
    _seen: Sequence[object] = field(default=(), repr=False)

    @property
    def ended(self) -> bool:
        """Whether the run has written its summary."""
        return self.run is not None and self.run.summary is not None and not self.fault

    def look(self) -> bool:
        """Read the folder anew, if one of its files changed since; whether one did."""
        found = [_stat(self.path / name) for name in FILES]
        seen = [stat and (stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found]
        if seen == self._seen:
            return False
        self._seen = seen
        self.changed = max((stat.st_mtime for stat in found if stat), default=0.0)
        self.begun, self.fault = RunFolder(self.path).exists(), ""
        if not self.begun or not (self.path / "run.json").is_file():
            self.run = None
            return True
        try:
            _check_sizes(self.path, found)
            self.run = read(self.path)
        except PolyRankError as error:
            self.fault = str(error)
        except Exception as error:  # whatever somebody wrote there, the page goes on
            self.fault = (
                f"{self.path} cannot be read: {type(error).__name__}: {error}; polyrank --debug report says where"
            )
        return True


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _check_sizes(folder: Path, found: Sequence[os.stat_result | None]) -> None:
    for name, stat in zip(FILES, found, strict=True):
        if stat and stat.st_size > LARGEST:
            raise RunFolderError(
                f"{folder / name} has {size(stat.st_size)}; a page that is read again and again takes files up to "
                f"{size(LARGEST)}: make a report of this run instead"
            )


@dataclass
class Search:
    """Finds the runs in some folders: each may be a run's, or hold several, or come later.

    Attributes:
        paths: the folders.
        watched: what was found, by folder.
        holds: whether one of the folders holds runs, to which others may come.
    """

    paths: Sequence[Path]
    watched: dict[Path, Watched] = field(default_factory=dict)
    holds: bool = False
    _again: float = 0.0

    def look(self) -> bool:
        """Search, and read what changed; whether anything did."""
        before = list(self.watched)
        if time.monotonic() >= self._again:
            start = time.monotonic()
            self._find()
            self._again = time.monotonic() + SHARE * (time.monotonic() - start)
        changes = [one.look() for one in self.watched.values()]
        return any(changes) or before != list(self.watched)

    def _find(self) -> None:
        found: dict[Path, Watched] = {}
        self.holds = False
        for path in self.paths:
            inside = _inside(path)
            self.holds |= bool(inside)
            for folder in inside or [path]:
                key = Path(os.path.realpath(folder))  # a link may lead to itself
                named = str(path) if folder == path else str(Path(path.name, folder.relative_to(path)))
                found.setdefault(key, self.watched.get(key) or Watched(key, named))
        self.watched = found


def _inside(path: Path) -> list[Path]:
    """The run folders below one that is none itself."""
    return [] if RunFolder(path).exists() else folders_in(path, ["run.json", "requested.toml"])
