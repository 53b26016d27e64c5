from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

QUICK = (
    *("federation.clients=3", "federation.participation=1", "data.limit_train=90", "data.limit_test=40"),
    *("data.partition=iid", "ranks.policy=fixed", "ranks.levels=[2,4]", "ranks.counts=[2,1]", "model.dropout=0.1"),
    *("training.precision=float32", "training.attention=eager", "training.engine=sequential", "training.workers=1"),
    *("data.max_tokens=16", "training.batch_size=8"),
)
"""The quickstart's own model and texts, few of them, with nothing left to be measured."""


class Daemon:
    """`polyrank site` as a process, and what it has said."""

    def __init__(self, socket: Path, log: Path, *overrides: str) -> None:
        self.socket, self.log = socket, log
        sets = [part for text in (*QUICK, *overrides) for part in ("--set", text)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "polyrank", "site", "--socket", str(socket), *sets],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_for(self, text: str, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, f"not said: {text}\n{self.said}"
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """As a supervisor does it; the exit code."""
        if self.process.poll() is None:
            psutil.Process(self.process.pid).resume()
            self.process.terminate()
        return self.process.wait(timeout=20)


StartDaemon = Callable[..., Daemon]


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A directory of the owner's alone."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def start_daemon(private: Path) -> Iterator[StartDaemon]:
    """`start_daemon("training.epochs=5")`: a daemon at ``private/site.sock`` that is ready; ended with the test."""
    started: list[Daemon] = []

    def start(*overrides: str) -> Daemon:
        daemon = Daemon(private / "site.sock", private / f"{len(started)}.log", *overrides)
        started.append(daemon)
        daemon.wait_for("ready at")
        return daemon

    yield start
    for daemon in started:
        daemon.stop()
