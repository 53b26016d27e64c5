"""Whole runs whose clients are trained by processes of their own."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from polyrank.core.errors import RunFolderError
from polyrank.federation import loading
from polyrank.runs import checkpoint
from polyrank.runs.folder import RunFolder
from polyrank.runs.listener import Listener
from polyrank.runs.runner import run
from tests.conftest import Configure
from tests.runs.doubles import Pretend, Stop

BOTH = ("federation.participation=1", "federation.rounds=2", "model.dropout=0.1")


def workers() -> list[psutil.Process]:
    """Processes that train for this one, those that have ended left out."""
    found = psutil.Process().children()
    return [
        one for one in found if one.status() != psutil.STATUS_ZOMBIE and "polyrank.training.workers" in one.cmdline()
    ]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [line | {"seconds": 0} for line in RunFolder(folder).read_metrics()]


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


def test_ctrl_c_ends_the_processes(configure: Configure, tmp_path: Path):
    """In the middle of a round, while they train."""
    seen: list[int] = []

    class Look(Stop):
        def on_client(self, stage: str, done: int, total: int) -> None:
            seen.append(len(workers()))
            super().on_client(stage, done, total)

    with pytest.raises(KeyboardInterrupt):
        run(configure(*BOTH, "training.workers=2"), tmp_path, listener=Look(in_round=1))
    assert set(seen) == {2}
    assert not workers()


class Closable(Pretend):
    """Counts how often it is closed."""

    closed: ClassVar[list[int]] = []

    def close(self) -> None:
        self.closed.append(1)


@pytest.mark.parametrize("stage", ["on_start", "on_client", "on_saved", "on_end", None])
@pytest.mark.parametrize("problem", [KeyboardInterrupt, RunFolderError, ValueError])
def test_however_a_run_ends_its_engine_is_closed(
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str | None,
    problem: type[BaseException],
):
    """Once, wherever the trouble is, and without any; a listener's error ends no run, and Ctrl-C does."""

    def fail(*_: object) -> None:
        raise problem

    listener = Listener()
    if stage:
        monkeypatch.setattr(listener, stage, fail)
    monkeypatch.setattr(loading, "engine_of", lambda *_, **__: Closable())
    monkeypatch.setattr(Closable, "closed", [])
    with pytest.raises(problem) if stage and problem is KeyboardInterrupt else nullcontext():
        run(configure("federation.rounds=1"), tmp_path, listener=listener)
    assert Closable.closed == [1]


def test_a_folder_that_is_taken_is_said_before_anything_starts(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loading, "engine_of", lambda *_, **__: Closable())
    monkeypatch.setattr(Closable, "closed", [])
    run(configure("federation.rounds=1"), tmp_path)
    Closable.closed.clear()
    with pytest.raises(RunFolderError, match="--resume"):
        run(configure("federation.rounds=1"), tmp_path)
    assert Closable.closed == []
