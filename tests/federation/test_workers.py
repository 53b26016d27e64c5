"""Whole runs whose clients are trained by two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from polyrank.errors import RunFolderError
from polyrank.federation import checkpoint
from polyrank.federation.listener import Listener
from polyrank.federation.run_folder import RunFolder
from polyrank.federation.runner import run
from tests.federation.conftest import Configure

BOTH = ("federation.participation=1", "federation.rounds=2", "model.dropout=0.1")


def workers() -> list[psutil.Process]:
    """Processes that train for this one, those that have ended left out."""
    found = psutil.Process().children()
    return [
        one for one in found if one.status() != psutil.STATUS_ZOMBIE and "polyrank.training.workers" in one.cmdline()
    ]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [line | {"seconds": 0} for line in RunFolder(folder).read_metrics()]


@pytest.fixture
def single_threaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process has one thread here, as each of two has."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("single_threaded")
def test_a_run_is_the_same_with_one_process_and_with_two(configure: Configure, tmp_path: Path):
    """Bit for bit, in passes of two clients; the scoring round goes through the processes as well."""
    config = ("ranks.policy=validation", "ranks.validation_per_label=10", *BOTH)
    seen: list[int] = []

    class Look(Listener):
        def on_saved(self, round_number: int) -> None:  # noqa: ARG002  # the listener's signature
            seen.append(len(workers()))

    run(configure(*config), tmp_path / "one", listener=Look())
    run(configure(*config, "training.workers=2"), tmp_path / "two", listener=Look())
    assert seen == [0, 0, 0, 2, 2, 2]
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    one, two = (checkpoint.load(tmp_path / name / "checkpoint") for name in ("one", "two"))
    assert one.adapter.identical(two.adapter)
    assert one.ranks == two.ranks
    clients = [RunFolder(tmp_path / name).read_json("clients") for name in ("one", "two")]
    assert clients[0] == clients[1]
    assert not workers()


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), RunFolderError("the disk is full")], ids=["Ctrl-C", "error"])
def test_a_run_that_ends_early_ends_its_processes(configure: Configure, tmp_path: Path, problem: BaseException):
    """In the middle of a round, while the processes train."""
    seen: list[int] = []

    class Stop(Listener):
        def on_client(self, stage: str, done: int, total: int) -> None:  # noqa: ARG002  # the listener's signature
            seen.append(len(workers()))
            raise problem

    with pytest.raises(type(problem)):
        run(configure(*BOTH, "training.workers=2"), tmp_path, listener=Stop())
    assert seen == [2]
    assert not workers()
