"""Commands of ours in a forked process: libraries are loaded once, so that a whole run takes a second.

What is forked is exactly ``polyrank ARGUMENTS``, with a process group of its own.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from polyrank.core.text import lines

STAGES = ("starting", "loading", "training", "aggregation", "evaluation", "metrics", "checkpoint", "closing", "report")


class Marks:
    """Which stage a forked process is in, told through memory that both have."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    @property
    def now(self) -> str:
        """The stage."""
        return STAGES[self._shared[0]]

    def reset(self) -> None:
        """Begin anew."""
        self._shared[0] = 0

    def wrapped(self, stage: str, call: Callable[..., object]) -> Callable[..., object]:
        """A function that is a stage."""

        def marked(*arguments: object, **named: object) -> object:
            before, self._shared[0] = self._shared[0], STAGES.index(stage)
            try:
                return call(*arguments, **named)
            finally:
                self._shared[0] = before

        return marked

    def install(self) -> None:
        """Mark what a run does; once, in the process that is forked."""
        from polyrank.federation import gathering
        from polyrank.report import page
        from polyrank.runs import checkpoint, opening, runner
        from polyrank.runs.folder import RunFolder

        for stage, owner, name in (
            *(
                ("loading", opening, "build"),
                ("training", runner.Runner, "step"),
                ("aggregation", gathering, "aggregate"),
            ),
            *(("evaluation", runner, "score_global"), ("metrics", RunFolder, "append_metrics")),
            *(("checkpoint", checkpoint, "save"), ("closing", runner.Runner, "_finish"), ("report", page, "write")),
        ):
            setattr(owner, name, self.wrapped(stage, getattr(owner, name)))


@dataclass
class Forked:
    """One command.

    Args:
        pid: of its process, which leads a group.
        output: what it says.
    """

    pid: int
    output: Path

    def kill(self, *, group: bool = True) -> None:
        """SIGKILL, to all that it started or to itself alone."""
        try:
            (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def ended(self, seconds: float) -> int | None:
        """Its exit code, negative for a signal, if it ends within the time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        return None

    def wait(self, seconds: float = 600) -> int:
        """Its exit code, negative for a signal.

        Raises:
            TimeoutError: it goes on; it is killed then.
        """
        if (code := self.ended(seconds)) is not None:
            return code
        self.kill()
        os.waitpid(self.pid, 0)
        raise TimeoutError(f"it went on for {seconds:g} s: {self.said[-1000:]}")

    @property
    def said(self) -> str:
        """Both of its streams."""
        return lines(self.output.read_text(encoding="utf-8", errors="replace"))


def fork(commands: Sequence[Sequence[str]], output: Path, prepare: Callable[[], object] | None = None) -> Forked:
    """Run commands of ours one after another, until one fails, in a process of their own.

    Args:
        commands: arguments of ``polyrank``.
        output: a file for what they say.
        prepare: called in the new process before the first one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Forked(pid, output)
    code = 70
    try:
        os.setsid()
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for stream in (1, 2):
            os.dup2(handle, stream)
        import torch

        # after a fork torch makes its pool of threads anew; of two threads that ask for it at once, one finds none
        torch.set_num_threads(1)
        if prepare is not None:
            prepare()
        code = max(_called(command) for command in commands)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _called(arguments: Sequence[str]) -> int:
    from polyrank.cli import main

    sys.argv = ["polyrank", *arguments]
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        if code:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return 0


@cache
def preload() -> Marks:
    """Load all that a run and a report need, and run one, so that what is made once is there; then mark the stages."""
    import torch

    from benchmarks.tiny import tiny
    from polyrank.report import page
    from polyrank.runs.runner import run

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        run(tiny("federation.rounds=1"), Path(scratch) / "run")
        page.write(Path(scratch) / "x.html", *_compared(Path(scratch) / "run"))
    marks = Marks()
    marks.install()
    return marks


def _compared(folder: Path) -> tuple[Any, Any]:
    from polyrank.report.runs import find, grouped
    from polyrank.report.statistics import compare

    groups = grouped(find([folder]))
    return groups, compare(groups)
