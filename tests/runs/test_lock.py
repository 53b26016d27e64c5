"""A run folder has one writer at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import polyrank
from polyrank.core.errors import RunFolderError
from polyrank.runs.folder import LOCK, RunFolder
from polyrank.runs.lock import held
from tests.conftest import Configure

HOLD = """
import pathlib, sys, time
from polyrank.runs.lock import held
with held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes the folder ``run``."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_kept_out_until_it_is_killed(other: subprocess.Popen[str], tmp_path: Path):
    with (
        pytest.raises(RunFolderError, match="run is being written by another run; wait"),
        held(tmp_path / "run"),
    ):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait(60)
    with held(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).exists()


def test_neither_a_new_run_nor_one_that_goes_on_writes_where_another_does(configure: Configure, tmp_path: Path):
    """What is there stays as it is; and after the run the folder is free."""
    out, config = tmp_path / "run", configure("federation.rounds=1")
    with held(out), pytest.raises(RunFolderError, match="another run"):
        polyrank.run(config, out)
    polyrank.run(config, out)
    before = (out / "metrics.jsonl").read_bytes()
    longer = configure("federation.rounds=2")
    with held(out):
        for how in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(RunFolderError, match="another run"):
                polyrank.run(longer, out, **how)
    assert (out / "metrics.jsonl").read_bytes() == before
    polyrank.run(longer, out, resume=True)
    assert len(RunFolder(out).read_metrics()) == 2


def test_a_folder_that_is_no_run_gets_no_lock(configure: Configure, tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunFolderError, match="is no run folder"):
        polyrank.run(configure(), tmp_path)
    assert not (tmp_path / LOCK).exists()
