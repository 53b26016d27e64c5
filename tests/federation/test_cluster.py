"""Runs on a Ray cluster, which is pretended here; `tests/training/test_cluster.py` has a real one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from polyrank.core.errors import ConfigError
from polyrank.federation import loading, trainers
from polyrank.runs.folder import RunFolder
from polyrank.runs.runner import run
from polyrank.training.cluster import Share
from polyrank.training.profile import Clock
from polyrank.training.remote import Setup
from polyrank.training.work import Engine, Outcome, Work
from tests.conftest import Configure

SEEN: list[Setup] = []
LEFT: list[bool] = []


class Pretended(Engine):
    """Trains here what a cluster would."""

    def __init__(self, setup: Setup, cut: Share, clock: Clock, *, leave: bool) -> None:
        assert cut == Share(2, 1, 0)
        SEEN.append(setup)
        self._leave, self._engine, self.clock = leave, setup.engine(), clock

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        return self._engine.run(works)

    def close(self) -> None:
        LEFT.append(self._leave)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two nodes, which nobody has joined yet."""
    SEEN.clear()
    LEFT.clear()
    monkeypatch.setattr(trainers, "connect", lambda address: address == "ray")
    monkeypatch.setattr(trainers, "share", lambda _: Share(2, 1, 0))
    monkeypatch.setattr(trainers, "Cluster", Pretended)


@pytest.mark.usefixtures("cluster")
def test_a_run_on_a_cluster_is_that_on_this_machine(configure: Configure, tmp_path: Path):
    """What is written down says how it was trained; the cluster is left afterwards if it was joined."""
    run(configure("ranks.policy=validation", "ranks.validation_per_label=10"), tmp_path / "here")
    elsewhere = configure(
        "ranks.policy=validation", "ranks.validation_per_label=10", "training.cluster=ray", "training.workers=auto"
    )
    run(elsewhere, tmp_path / "there")
    lines = [RunFolder(tmp_path / name).read_metrics() for name in ("here", "there")]
    assert [{**line, "seconds": 0} for line in lines[0]] == [{**line, "seconds": 0} for line in lines[1]]
    training = RunFolder(tmp_path / "there").read_config().training
    assert (training.cluster, training.workers, training.lanes) == ("ray", 2, 1)
    assert SEEN[0].device == "cpu"
    assert LEFT == [True]


@pytest.mark.usefixtures("cluster")
def test_what_is_open_is_measured_for_an_actors_share(configure: Configure, monkeypatch: pytest.MonkeyPatch):
    """Six clients on two actors: three each, by all of this machine's cores, as by all of a node's."""
    asked: list[int] = []
    real = loading.chosen.__globals__["choose"]

    def choose(*given, rounds):  # type: ignore[no-untyped-def]
        load, task, examples, options, works = given

        def counted(base):  # type: ignore[no-untyped-def]
            asked.append(len(works(base)))
            return works(base)

        assert options.workers == 1
        return real(load, task, examples, options, counted, rounds=rounds)

    monkeypatch.setitem(loading.chosen.__globals__, "choose", choose)
    config = configure("federation.participation=1", "training.cluster=10.0.0.1:6379", "training.workers=auto")
    from polyrank import ranks
    from polyrank.federation.population import read
    from polyrank.tasks import settled

    site = loading.load(settled(config), read(settled(config), ranks.policy(config.ranks)))
    assert asked == [3]
    assert "2 processes" in str(site.plan)
    site.engine.close()
    assert LEFT == [False]


def test_without_ray_it_is_said(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'polyrank\[cluster\]'"):
        run(configure("training.cluster=ray"), tmp_path / "run")
