"""Nodes of a Ray cluster, all on this machine: real raylets, real actors, and a node that is killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from polyrank.config import ModelConfig, TrainingConfig
from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError, ConfigError, WorkerError
from polyrank.tasks.task import Examples
from polyrank.training import cluster
from polyrank.training.cluster import Cluster, Share, connect, share
from polyrank.training.profile import Clock
from polyrank.training.remote import Setup
from polyrank.training.work import Outcome, Work
from tests.models import LABELS, TASK, Checkpoints, resident
from tests.training import uneven
from tests.training.uneven import on_one_thread, same

ray = pytest.importorskip("ray")
SIZES = (*uneven.SIZES, 4, 8, 2)
OPTIONS = TrainingConfig(
    engine="batched", clients_per_pass=2, lanes=1, workers=2, precision="float32", attention="eager", batch_size=4
)


@dataclass(frozen=True, eq=False)
class Deadly(Examples):
    """Ends the actor that looks at it, as one that wants more memory than there is."""

    @property
    def lengths(self) -> np.ndarray:
        if "default_worker" in sys.argv[0]:  # Ray's
            os._exit(1)
        return super().lengths


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head without cores and two nodes of one each."""
    from ray.cluster_utils import Cluster as Nodes

    made = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    assert connect(made.address)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def setup(checkpoint: Checkpoints) -> Setup:
    model = ModelConfig(name=str(checkpoint("bert")), head="model", dropout=0.1)
    loaded = resident(checkpoint("bert"), head="model")
    held = uneven.held(loaded, SIZES)
    whole = held["c0"]
    held["deadly"] = Deadly(whole.tokens, whole.targets, whole.pad_id)
    held["beyond"] = Examples((np.array([2, 10**6, 3]),), np.array([0]), 0)
    return Setup(model, TASK, held, LABELS, seed=0, device="cpu", training=OPTIONS, threads=1, profile=True)


@pytest.fixture(scope="module")
def works(checkpoint: Checkpoints) -> list[Work]:
    return uneven.works(resident(checkpoint("bert"), head="model"), len(SIZES))


@pytest.fixture(scope="module")
def expected(setup: Setup, works: list[Work]) -> list[Outcome]:
    return on_one_thread(setup, works)


@pytest.mark.slow
def test_a_cluster_gives_what_one_process_gives_and_survives_its_nodes(
    nodes: Any, setup: Setup, works: list[Work], expected: list[Outcome]
):
    """Bit for bit, in the order of the works; a node dies in mid-round, then an actor; an error of a work is told."""
    assert share("auto") == Share(2, 1, 0)
    clock = Clock(running=True)
    engine = Cluster(setup, share(2), clock, leave=False)
    assert same(list(engine.run(works)), expected)
    assert clock.take()["arithmetic"] > 0
    assert [outcome.client for outcome in engine.run(works[::-1])] == [work.client for work in works[::-1]]
    assert list(engine.run([])) == []
    change = Adapter(works[1].adapter.modules)
    alike = [replace(work, adapter=works[0].adapter, base_change=change) for work in works]
    assert same(list(engine.run(alike)), on_one_thread(setup, alike))

    found = []
    for outcome in engine.run(works):
        if not found:
            nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
        found.append(outcome)
    assert same(found, expected)
    nodes.add_node(num_cpus=1)
    next(engine.run(works))  # whoever stops reading leaves nothing behind that the next round waits for
    assert same(list(engine.run(works)), expected)

    with pytest.raises(WorkerError, match=r"3 actors died, one after another, while it trained deadly"):
        list(engine.run([replace(works[0], client="deadly"), *works]))
    assert same(list(engine.run(works)), expected)
    with pytest.raises((AdapterError, WorkerError, IndexError)):
        list(engine.run([replace(works[0], client="beyond")]))
    engine.close()


@pytest.mark.slow
def test_what_cannot_be_had_is_said(nodes: Any, setup: Setup, monkeypatch: pytest.MonkeyPatch):  # noqa: ARG001
    with monkeypatch.context() as soon:
        soon.setattr(cluster, "PATIENCE", 2.0)
        with pytest.raises(WorkerError, match=r"no actor was ready in 2 s; each needs 64 core\(s\)"):
            Cluster(setup, Share(1, 64, 0), Clock(), leave=False)
    lost = replace(setup, model=setup.model.model_copy(update={"name": "/no/such/model"}))
    with pytest.raises(Exception, match="/no/such/model"):
        Cluster(lost, Share(1, 1, 0), Clock(), leave=False)


def test_where_nothing_answers(monkeypatch: pytest.MonkeyPatch):
    """Whether or not another test has joined a cluster of its own."""

    def fail(**_: object) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ConfigError, match=r"no Ray cluster at 10\.0\.0\.1:6379: nobody there"):
        connect("10.0.0.1:6379")
