"""Many inputs for one target, in a process of its own: what became of each, and which are findings."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.mutate import Content, Files, Link
from benchmarks.fuzz.targets import Target
from benchmarks.fuzz.watch import ForbiddenError, HungError, Watch, peak, within

SECONDS = 10.0
"""For one input."""
KEPT = 5
"""Inputs of one kind of finding that are kept."""


@dataclass
class Session:
    """Tries inputs and counts.

    The input lies in ``in/`` while it is read, so that it is still there when the process dies of it. Its folder lies
    deep enough for ``../../..`` to end in what is looked at.

    Args:
        target: what is tried.
        scratch: a folder of its own.
        findings: where inputs of findings are kept.
        watch: of this process.
    """

    target: Target
    scratch: Path
    findings: Path
    watch: Watch
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    growth: int = 0
    slowest: float = 0.0

    def __post_init__(self) -> None:
        self.inside, self.out = self.scratch / "a" / "b" / "c" / "in", self.scratch / "a" / "b" / "c" / "out"
        self.tried = 0

    def warm_up(self, valid: int = 40) -> None:
        """What is imported and allocated once is no input's doing."""
        random = Random(0)
        for _ in range(valid):
            files = self.target.make(random)
            if not all(isinstance(content, bytes) for content in files.values()):
                continue  # before there are limits
            put(self.inside, files)
            self._empty_out()
            try:
                with within(60):
                    self.target.read(self.inside, self.out)
            except Exception:
                continue

    def __call__(self, random: Random) -> None:
        """One input."""
        files = self.target.make(random)
        put(self.inside, files)
        self._empty_out()
        self.tried += 1
        before, start, problem = peak(), time.perf_counter(), None
        try:
            with warnings.catch_warnings(), within(SECONDS), self.watch.on():
                warnings.simplefilter("ignore")
                self.target.read(self.inside, self.out)
            self.accepted += 1
        except self.target.refuses as error:
            self.refused[type(error).__name__] += 1
            if not 0 < len(said := str(error)) < 4000:
                problem = f"a refusal of {len(said)} characters: {type(error).__name__}"
        except (Exception, ForbiddenError, HungError) as error:
            problem = _where(error)
        self.slowest = max(self.slowest, time.perf_counter() - start)
        grown = peak() - before
        self.growth = max(self.growth, grown)
        if grown > self.target.grows:
            problem = problem or f"{grown // 2**20} MiB of memory"
        if strangers := self._outside():
            problem = f"wrote {strangers}"
        if problem:
            self._keep(problem)
        if self.tried % 500 == 0:
            gc.collect()

    def result(self) -> dict[str, Any]:
        """Counts, for JSON."""
        return {
            **{"inputs": self.tried, "accepted": self.accepted, "refused": dict(self.refused)},
            **{"findings": dict(self.found), "growth_bytes": self.growth, "slowest_seconds": round(self.slowest, 3)},
        }

    def _empty_out(self) -> None:
        if any(self.out.iterdir()) if self.out.is_dir() else True:
            shutil.rmtree(self.out, ignore_errors=True)
            self.out.mkdir(parents=True)

    def _outside(self) -> str:
        """What lies beside the two folders that the parser was given."""
        strangers = [path.name for path in self.inside.parent.iterdir() if path.name not in ("in", "out")]
        strangers += [path.name for path in self.scratch.iterdir() if path.name != "a"]
        strangers += ["/tmp/polyrank-evil"] if os.path.lexists("/tmp/polyrank-evil") else []
        return ", ".join(strangers)

    def _keep(self, problem: str) -> None:
        self.found[problem] += 1
        if self.found[problem] <= KEPT:
            self.findings.mkdir(parents=True, exist_ok=True)
            own = Path(tempfile.mkdtemp(dir=self.findings))
            shutil.copytree(self.inside, own / "in", symlinks=True, copy_function=_copy)
            (own / "why.txt").write_text(problem, encoding="utf-8", errors="replace")


def put(folder: Path, files: Files) -> None:
    """Write an input; what was there is gone."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        _put(folder / name, content)


def _put(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Link):
        path.symlink_to(content.to)
    elif content.kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)


def _copy(source: str, target: str) -> None:
    if Path(source).is_file():
        shutil.copyfile(source, target)
    else:
        os.mkfifo(target)


def _where(error: BaseException) -> str:
    """The kind of an error and the last line of ours that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/polyrank/" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}"
    said = str(error) if isinstance(error, ForbiddenError | AssertionError) else ""
    return f"{type(error).__name__} at {place} {said}".strip()[:200]
